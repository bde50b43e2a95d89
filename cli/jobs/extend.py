"""`vgen extend` and `vgen state`: continue a finished clip, here or in another installation."""

from pathlib import Path
from typing import Annotated

import typer

from cli import completion, output
from cli.batches.stored import print_stored
from cli.context import open_database, settings_of
from cli.jobs import imports
from cli.options import Json, Wait
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.files.object_names import state_key
from pipeline.settings import Settings
from pipeline.stages.continuation import BLOB
from pipeline.wiring import make_storage
from service import extension
from service.extension import Extended, checked_bytes, left_by, next_spec, store
from service.views.clips import StateView

app = typer.Typer(help="Export or import the continuation state of a finished clip.", no_args_is_help=True)

FinishedJob = Annotated[str, typer.Argument(metavar="JOB", help="A finished job.", autocompletion=completion.jobs_here)]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt of what happens next.")]
Segments = Annotated[str | None, typer.Option("--segments", metavar="COUNT", help="Number of segments to add.")]
Length = Annotated[
    str | None, typer.Option("--num-frames", metavar="COUNT", help="Frames per segment; default: as in the clip.")
]
Seed = Annotated[str | None, typer.Option("--seed", help="Default: derived from the clip's.")]
Whole = Annotated[
    bool, typer.Option("--whole/--part", help="The new clip begins with the finished one, or has only the new part.")
]
Enhance = Annotated[
    bool | None, typer.Option("--enhance/--no-enhance", help="Whether to enhance the prompt; default: as for the clip.")
]


def extend(
    ctx: typer.Context,
    job: FinishedJob,
    prompt: Prompt,
    segments: Segments = None,
    num_frames: Length = None,
    seed: Seed = None,
    enhance: Enhance = None,
    whole: Whole = True,
    wait: Wait = False,
    json: Json = False,
) -> int:
    """Make a new clip that begins with a finished clip and continues it."""
    settings = settings_of(ctx)
    changes = {"segments": segments, "num_frames": num_frames, "seed": seed, "enhance": enhance}
    with open_database(settings, upgrade=True) as database:
        extended = extension.extend(database, settings, job, prompt, changes, whole=whole)
        return _show(extended, settings, database, wait=wait, json=json)


@app.command("export")
def export(
    ctx: typer.Context,
    job: FinishedJob,
    file: Annotated[Path | None, typer.Option("--output", "-o", help="Default: JOB.vgen-state.")] = None,
    json: Json = False,
) -> int:
    """Write a finished clip's continuation state to a file."""
    from pipeline.stages.state_file import write_state  # numpy, which `vgen extend` does without

    settings = settings_of(ctx)
    with open_database(settings) as database:
        left = left_by(database, job)
    path, blob = file or Path(f"{left.job_id}.vgen-state"), left.state.blobs[BLOB]
    try:
        with draft_of(path) as draft:
            make_storage(settings).download(blob["key"], draft)
            write_state(draft, left.state, checked_bytes(draft, blob), left.spec, left.options)
    except OSError as error:
        raise InputError([Problem(f"cannot be written: {error.strerror}", str(path))]) from None
    if json:
        output.as_json(StateView(job_id=left.job_id, file=str(path), kind=left.state.kind, version=left.state.version))
    else:
        output.line(f"{path}: what {left.job_id} can be extended from")
    return 0


@app.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `vgen state export` wrote.")],
    prompt: Prompt,
    segments: Segments = None,
    num_frames: Length = None,
    seed: Seed = None,
    enhance: Enhance = None,
    wait: Wait = False,
    json: Json = False,
) -> int:
    """Continue a clip of another installation from such a file."""
    from pipeline.stages.state_file import read_state

    settings = settings_of(ctx)
    read, inputs = read_state(file), imports.stored_inputs(settings)
    imported, options = imports.of_state(file, read, settings, inputs)
    spec, state = imported.spec, read.of(imported.spec, file)
    changes = {"segments": segments, "num_frames": num_frames, "seed": seed, "enhance": enhance}
    new = next_spec(spec, spec.extends or _name_of(file), prompt, changes, settings)
    with open_database(settings, upgrade=True) as database:
        storage, key = make_storage(settings), state_key(state.blobs[BLOB]["sha256"])
        storage.put_bytes(key, read.frames, content_type="application/octet-stream")
        stored = store(database, settings, state, new, options, inputs.stored)
        if storage.stat(key) is None:  # a sweep that looked before the rows were there
            storage.put_bytes(key, read.frames, content_type="application/octet-stream")
        return _show(Extended(stored, new, options), settings, database, wait=wait, json=json)


def _name_of(file: Path) -> str:
    """Return the name for another system's job: its file's name, as a job's own name may be."""
    name = "".join(char if char.isprintable() else "_" for char in file.stem).strip()
    return name.encode("utf-8", "replace").decode("utf-8")[:128] or "state"


def _show(extended: Extended, settings: Settings, database: Database, *, wait: bool, json: bool) -> int:
    spec = extended.spec
    after = f", after its {spec.frames_before}" if spec.frames_before else ""
    summary = f"1 job stored, {spec.total_frames} frames that go on from {spec.extends}{after}"
    return print_stored(
        extended.stored, summary, extended.options, settings=settings, database=database, wait=wait, json=json
    )
