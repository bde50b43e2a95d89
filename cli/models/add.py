"""`vgen models add`: writes a preset for a model folder, and makes one clip as a test."""

import re
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.interrupt import Interrupt
from cli.options import Json
from pipeline.errors import ConflictError, InputError, Problem, StoppedError
from pipeline.files.drafts import draft_of
from pipeline.files.private import private_folder
from pipeline.generators.probe_request import PROMPT
from pipeline.models import hub
from pipeline.presets import load_library
from pipeline.presets.from_folder import preset_text
from pipeline.settings import Settings
from service.exit_codes import ExitCode
from service.views.models import ModelAddedView


def add(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that diffusers' save_pretrained wrote.")],
    name: Annotated[str | None, typer.Option("--name", help="The preset's name; default: the folder's.")] = None,
    clip: Annotated[bool, typer.Option("--clip/--no-clip", help="Make one clip with its defaults.")] = True,
    image: Annotated[Path | None, typer.Option("--image", help="First frame, if the model needs one.")] = None,
    json: Json = False,
) -> int:
    """Write a preset for a model folder, from its configuration files, then make one clip with it."""
    settings = settings_of(ctx)
    model = folder.expanduser().absolute()
    if not model.is_dir():
        raise InputError([Problem("is not a folder", str(folder))])
    chosen = name or re.sub(r"[^a-z0-9.-]+", "-", model.name.lower()).strip("-.") or "model"
    file = settings.effective_presets_dir / f"{chosen}.toml"
    if file.exists() or chosen in load_library(settings.effective_presets_dir).presets:
        raise ConflictError(f"preset {chosen!r} exists already; --name gives another name")
    _write(file, preset_text(model), chosen)
    problems = list(
        hub.check(load_library(settings.effective_presets_dir).get(chosen), settings.effective_cache_dir).problems
    )
    made = _clip(settings, chosen, image) if clip and not problems else None
    view = ModelAddedView(preset=chosen, file=str(file), clip=None if made is None else str(made), problems=problems)
    if json:
        output.as_json(view)
        return ExitCode.INCOMPLETE if problems else ExitCode.DONE
    output.facts((("preset", view.preset), ("file", view.file), ("clip", view.clip)))
    for problem in problems:
        output.notice(f"{model}: {problem}")
    output.line(f"next: vgen models check {chosen}" if problems else f'next: vgen run "a prompt" --preset {chosen}')
    return ExitCode.INCOMPLETE if problems else ExitCode.DONE


def _write(file: Path, text: str, name: str) -> None:
    """Write the preset, and take it back where it is not one. Raises InputError."""
    private_folder(file.parent)
    with draft_of(file) as draft:
        draft.write_text(text, "utf-8")
    try:
        load_library(file.parent).get(name)
    except InputError:
        file.unlink()
        raise


def _clip(settings: Settings, name: str, image: Path | None) -> Path:
    from vgen import ProgressEvent, VideoGenerator, VideoRequest

    path = next(path for number in range(1, 10_000) if not (path := Path(f"{name}-{number}.mp4")).exists())
    phases: set[str] = set()
    with Interrupt("stopping: at the next step; again to stop at once") as interrupt:

        def tell(event: ProgressEvent) -> None:
            if interrupt.stopped:
                raise StoppedError("interrupted")
            if event.phase not in phases:
                phases.add(event.phase)
                output.notice(event.phase.replace("_", " "))

        try:
            with VideoGenerator.from_preset(name, settings=settings, on_progress=tell) as generator:
                generator.generate(VideoRequest(PROMPT, image=image), output=path, on_progress=tell)
        except StoppedError:
            raise KeyboardInterrupt from None
    return path.absolute()
