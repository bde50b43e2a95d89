"""`vgen generate`: makes one clip of a prompt or a configuration file, without a database, queue or home."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import prepare
from cli.interrupt import Interrupt
from cli.options import Json
from pipeline.errors import InputError, Problem, StoppedError
from pipeline.files.object_names import slug
from pipeline.nearest import did_you_mean
from pipeline.prompts.fields import PARSERS
from service import input_notes
from service.views.clips import GeneratedView
from vgen import ProgressEvent, VideoGenerator, read_config
from vgen.config import RunConfig

_KEYS = ("preset", "model", "extends", "fields.", "request.", "output.", "settings.")


def generate(
    ctx: typer.Context,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE.mp4", help="File of the clip; default: a name made from the prompt."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file: preset or model, request, output, settings.")
    ] = None,
    json: Json = False,
) -> int:
    """Make one clip without a database: vgen generate "a fox" -o fox.mp4.

    A clip's fields are options: --preset NAME, --seed 7, --size 832x480, --num-frames 33, as in a prompt file. With
    --config run.yaml they and its keys, as --dotted.key VALUE, go on top of the file. The sidecar goes beside the clip.
    docs/python-api.md has the keys.
    """
    run = _configuration(ctx, config, target)
    assert run.request is not None
    prepare(ctx, run.settings)
    run.output.check()
    printer = _PhasePrinter()
    with Interrupt("stopping: at the next step; again to stop at once") as interrupt:

        def tell(event: ProgressEvent) -> None:
            if interrupt.stopped:
                raise StoppedError("interrupted")
            printer(event)

        try:
            with VideoGenerator.from_config(run, on_progress=tell) as generator:
                clip = generator.generate(run.request, output=run.output, on_progress=tell)
        except StoppedError:
            raise KeyboardInterrupt from None
        except InputError as error:
            raise (error if config is None else error.in_file(str(config))) from None
    for text in input_notes.of_spec((clip.sidecar or {}).get("request", {})):
        output.notice(text)
    view = GeneratedView.model_validate(
        {name: getattr(clip, name) for name in GeneratedView.model_fields if name not in ("video", "sidecar")}
        | {"video": str(clip.video_path), "sidecar": str(clip.sidecar_path)}
    )
    if json:
        output.as_json(view)
    else:
        output.facts(
            (
                ("video", view.video),
                ("sidecar", view.sidecar),
                ("seed", view.seed),
                ("size", f"{view.width}x{view.height}, {view.num_frames} frames at {view.fps:g}"),
                ("frames sha256", view.frames_sha256),
                ("seconds", f"{view.generation_time_s:.1f}"),
            )
        )
    return 0


def _configuration(ctx: typer.Context, config: Path | None, target: Path | None) -> RunConfig:
    """Read the file, or nothing, and what the command line says on top. Raises InputError."""
    arguments, prompt = list(ctx.args), None
    if config is None and arguments and not arguments[0].startswith("-"):
        prompt = arguments.pop(0)
        if prompt.endswith((".yaml", ".yml")):
            raise InputError([Problem(f"a configuration is named by --config {prompt}", prompt)])
    if config is None and prompt is None and not any(word.startswith("--request.prompt") for word in arguments):
        raise InputError([Problem('needs a PROMPT, as in vgen generate "a fox" -o fox.mp4, or --config FILE')])
    overrides = overrides_of(arguments)
    if prompt is not None:
        overrides.append(("request.prompt", prompt))
    if target is not None:
        overrides.append(("output.path", str(target)))
    elif config is None and not any(name == "output.path" for name, _ in overrides):
        overrides.append(("output.path", str(_free_name(prompt or "clip"))))
    return read_config({} if config is None else config, overrides, settings=ctx.find_root().obj or {})


def _free_name(prompt: str) -> Path:
    """A name that reminds of the prompt and that no clip here has."""
    stem = slug(prompt)
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(Path(f"{name}.mp4") for name in names if not list(Path().glob(f"{name}.*")))


def overrides_of(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``--a.b VALUE`` and ``--a.b=VALUE`` as pairs; a clip's field by itself is the request's.

    Raises:
        InputError: an argument is neither, or names no key of the configuration.
    """
    pairs: list[tuple[str, str]] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if (field := name.replace("-", "_")) in PARSERS and name not in _KEYS:
            name = f"request.{field}"
        if not argument.startswith("--") or not name:
            raise InputError([Problem(f"{argument!r} is not an override: write --dotted.key VALUE; quote a prompt")])
        if name not in _KEYS and not name.startswith(tuple(key for key in _KEYS if key.endswith("."))):
            hint = did_you_mean(name, ("--config", "--json", *_KEYS), 2)
            raise InputError([Problem(f"unknown key; {hint}keys begin with {', '.join(_KEYS)}", field=f"--{name}")])
        if not equals:
            if not remaining:
                raise InputError([Problem("needs a value", field=argument)])
            value = remaining.pop(0)
        pairs.append((name, value))
    return pairs


class _PhasePrinter:
    """A line when a phase begins."""

    def __init__(self) -> None:
        self._phase = ""

    def __call__(self, event: ProgressEvent) -> None:
        if event.phase != self._phase:
            self._phase = event.phase
            steps = f", {event.total} steps" if event.phase == "denoise" else ""
            output.notice(f"{event.phase.replace('_', ' ')}{steps}")
