"""`vgen generate`: one clip by a configuration file, without rows, a queue or a home."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import prepare
from cli.interrupt import Interrupt
from cli.options import Json
from pipeline.errors import InputError, Problem, StoppedError
from pipeline.nearest import did_you_mean
from service import input_notes
from service.views.clips import GeneratedView
from vgen import ProgressEvent, VideoGenerator, read_config

_KEYS = ("preset", "model", "extends", "fields.", "request.", "output.", "settings.")


def generate(
    ctx: typer.Context,
    config: Annotated[Path, typer.Option("--config", help="A YAML file: preset or model, request, output, settings.")],
    json: Json = False,
) -> int:
    """Make one clip, without rows: --config run.yaml, with any of its keys as --dotted.key VALUE on top.

    The clip goes to output.path, its sidecar beside it. docs/python-api.md has the keys.
    """
    run = read_config(config, overrides_of(ctx.args), settings=ctx.find_root().obj or {})
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
            raise error.in_file(str(config)) from None
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


def overrides_of(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``--a.b VALUE`` and ``--a.b=VALUE`` as pairs.

    Raises:
        InputError: an argument is neither, or names no key of the configuration.
    """
    pairs: list[tuple[str, str]] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            raise InputError([Problem(f"{argument!r} is not an override: write --dotted.key VALUE")])
        if name not in _KEYS and not name.startswith(tuple(key for key in _KEYS if key.endswith("."))):
            hint = did_you_mean(name, ("--config", "--json", *_KEYS), 2)
            raise InputError([Problem(f"unknown key; {hint}keys begin with {', '.join(_KEYS)}", field=f"--{name}")])
        if not equals:
            if not remaining:
                raise InputError([Problem("needs a value", field=f"--{name}")])
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
