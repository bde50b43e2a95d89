"""`vgen extend` and `vgen state`: a finished clip goes on, here or in another system."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.batches.stored import print_stored
from cli.context import open_database, settings_of
from cli.jobs import imports
from cli.options import Json
from db.clips import batches, continuations, jobs
from db.reading import history
from db.session import Database
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import ConflictError, InputError, NotFoundError, Problem, RefusedError
from pipeline.files.drafts import draft_of
from pipeline.inputs.collector import StoredInput
from pipeline.object_names import state_key
from pipeline.presets import load_library
from pipeline.prompts import PlannedJob, Submission
from pipeline.prompts.fields import PARSERS
from pipeline.seeds import roll_seed, segment_seed
from pipeline.settings import Settings
from pipeline.spec import MAX_SEGMENTS, BatchOptions, Beginning, JobSpec
from pipeline.stages.continuation import BLOB, check_fits
from pipeline.stages.state_file import read_state, write_state
from pipeline.states import JobState
from pipeline.wiring import make_storage
from pipeline.work import ContinuationRef
from service import submission
from service.views.clips import StateView

app = typer.Typer(help="Export or import the continuation state of a finished clip.", no_args_is_help=True)

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt of what happens next.")]
Segments = Annotated[str | None, typer.Option("--segments", metavar="COUNT", help="Number of segments that are added.")]
Length = Annotated[
    str | None, typer.Option("--num-frames", metavar="COUNT", help="Frames of each; default: as before.")
]
Seed = Annotated[str | None, typer.Option("--seed", help="Default: derived from the clip's.")]
Whole = Annotated[
    bool, typer.Option("--whole/--part", help="The new clip begins with the finished one, or has only what is new.")
]
Enhance = Annotated[bool | None, typer.Option("--enhance/--no-enhance", help="Default: as the clip was made.")]
_ALONE = {"image": None, "last_image": None, "video": None, "reference_images": ()}


def extend(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A finished job.")],
    prompt: Prompt,
    segments: Segments = None,
    num_frames: Length = None,
    seed: Seed = None,
    enhance: Enhance = None,
    whole: Whole = True,
    json: Json = False,
) -> int:
    """Make a new clip that goes on where a finished one ends, and begins with it."""
    settings = settings_of(ctx)
    changes = {"segments": segments, "num_frames": num_frames, "seed": seed, "enhance": enhance}
    with open_database(settings, upgrade=True) as database:
        state, spec, options, job_id = _left_by(database, job)
        next_spec = _next(spec, job_id, prompt, changes, settings)
        if not whole:
            return _store(database, settings, state, next_spec, options, json)
        with tempfile.TemporaryDirectory(prefix="vgen-extend-") as folder:
            beginning = _beginning(database, settings, job_id, spec, Path(folder))
            next_spec = next_spec.model_copy(update={"begins_with": beginning.spec})
            return _store(database, settings, state, next_spec, options, json, beginning)


@app.command("export")
def export(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A finished job.")],
    file: Annotated[Path | None, typer.Option("--output", "-o", help="Default: JOB.vgen-state.")] = None,
    json: Json = False,
) -> int:
    """Write what a finished clip can be extended from to one file."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        state, spec, options, job_id = _left_by(database, job)
    path, blob = file or Path(f"{job_id}.vgen-state"), state.blobs[BLOB]
    try:
        with draft_of(path) as draft:
            make_storage(settings).download(blob["key"], draft)
            write_state(draft, state, _checked_bytes(draft, blob), spec, options)
    except OSError as error:
        raise InputError([Problem(f"cannot be written: {error.strerror}", str(path))]) from None
    if json:
        output.as_json(StateView(job_id=job_id, file=str(path), kind=state.kind, version=state.version))
    else:
        output.line(f"{path}: what {job_id} can be extended from")
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
    json: Json = False,
) -> int:
    """Extend a clip of another system: as `vgen extend`, from a file."""
    settings = settings_of(ctx)
    read, inputs = read_state(file), imports.stored_inputs(settings)
    imported, options = imports.of_state(file, read, settings, inputs)
    spec, state = imported.spec, read.of(imported.spec, file)
    changes = {"segments": segments, "num_frames": num_frames, "seed": seed, "enhance": enhance}
    next_spec = _next(spec, spec.extends or _name_of(file), prompt, changes, settings)
    with open_database(settings, upgrade=True) as database:
        storage, key = make_storage(settings), state_key(state.blobs[BLOB]["sha256"])
        storage.put_bytes(key, read.frames, content_type="application/octet-stream")
        code = _store(database, settings, state, next_spec, options, json, files=inputs.stored)
        if storage.stat(key) is None:  # a sweep that looked before the rows were there
            storage.put_bytes(key, read.frames, content_type="application/octet-stream")
        return code


def _name_of(file: Path) -> str:
    """Return the name for another system's job: its file's name, as a job's own name may be."""
    name = "".join(char if char.isprintable() else "_" for char in file.stem).strip()
    return name.encode("utf-8", "replace").decode("utf-8")[:128] or "state"


def states_of(database: Database, sources: Sequence[str], specs: Sequence[JobSpec]) -> dict[int, ContinuationRef]:
    """Return the states that clips to be made once more start from, where they extend another, by their place."""
    states = {}
    with database.reading() as session:
        for place, (source, spec) in enumerate(zip(sources, specs, strict=True)):
            if spec.extends is None:
                continue
            state = continuations.before(session, source, 1, 0)
            if state is None and (old := jobs.find(session, spec.extends)) is not None:
                state = continuations.last(session, old.id, old.roll)
            if state is None:
                raise NotFoundError(f"{source} extends {spec.extends}, whose last frames are not here any more")
            try:
                check_fits(state, frames=spec.seam_frames, height=spec.height, width=spec.width)
            except RefusedError as error:
                raise ConflictError(f"{source}, which extends {spec.extends}: {error}") from None
            states[place] = state
    return states


def _left_by(database: Database, job_id: str) -> tuple[ContinuationRef, JobSpec, BatchOptions, str]:
    """Raises NotFoundError, ConflictError: it has not succeeded, or its preset cannot go on."""
    with database.reading() as session:
        job = jobs.get(session, job_id)
        if job.state is not JobState.SUCCEEDED:
            raise ConflictError(f"job {job.id} is {job.state.value}: only a finished clip is extended")
        state = continuations.last(session, job.id, job.roll)
        options = BatchOptions.model_validate(batches.get(session, job.batch_id).options)
        spec = JobSpec.model_validate(job.spec)
    if state is None:
        raise ConflictError(
            f"job {job.id}: preset {spec.preset} cannot go on from given frames, or the frames are no longer kept"
        )
    return state, spec.model_copy(update={"seed": roll_seed(spec.seed, job.roll)}), options, job.id


@dataclass(frozen=True, slots=True)
class _Finished:
    """A finished clip as the beginning of another, and its file on this host."""

    spec: Beginning
    file: StoredInput


def _beginning(database: Database, settings: Settings, job_id: str, spec: JobSpec, folder: Path) -> _Finished:
    """Raises NotFoundError; the clip's file is gone or damaged."""
    with database.reading() as session:
        video = jobs.artifacts(session, [job_id])[job_id]["video"]
        digests = [segment.frames_sha256 for segment in history.segments_of_job(session, jobs.get(session, job_id))]
    path = folder / "before.mp4"
    try:
        make_storage(settings).download(video.key, path)
    except NotFoundError:
        raise NotFoundError(f"{video.key} is not in the store; --part makes a clip of what is new") from None
    _checked_bytes(path, {"key": video.key, "sha256": video.sha256})
    file = StoredInput(
        video.sha256, video.media_type, f"{job_id}.mp4", video.size, path=path, num_frames=spec.clip_frames
    )
    before = () if spec.begins_with is None else spec.begins_with.frames_sha256
    return _Finished(Beginning(video=file.ref, frames_sha256=(*before, *digests)), file)


def _next(spec: JobSpec, job_id: str, prompt: str, changes: dict[str, Any], settings: Settings) -> JobSpec:
    """The clip to be made. Raises InputError with every mistake."""
    values: dict[str, Any] = {"segments": 1, "num_frames": spec.num_frames, "seed": None}
    problems: list[Problem] = []
    for field, value in {"prompt": prompt, **changes}.items():
        if value is None:
            continue
        try:
            values[field] = PARSERS[field](value, True)
        except ValueError as error:
            option = "PROMPT" if field == "prompt" else f"--{field.replace('_', '-')}"
            problems.append(Problem(str(error), field=option))
    if not isinstance(values["segments"], int):
        problems.append(Problem(f"is a list; give a count from 1 to {MAX_SEGMENTS}", field="--segments"))
    library = load_library(settings.effective_presets_dir)
    preset = library.presets.get(spec.preset)
    if preset is None or preset.continuation is None:
        why = library.explain(spec.preset) if preset is None else f"{spec.preset!r} cannot go on from given frames"
        raise InputError([*problems, Problem(why, field="preset")])
    seam, frames = preset.continuation.frames, values["num_frames"]
    if isinstance(frames, int) and (not preset.frames.allows(frames) or frames < 2 * seam):
        near = ", ".join(str(count) for count in preset.frames.nearest(max(frames, 2 * seam)))
        message = f"{frames} cannot be made by preset {preset.name!r}; nearest: {near}"
        problems.append(Problem(message, field="--num-frames"))
    if problems:
        raise InputError(problems)
    seeds: Any = values["seed"]
    return spec.model_copy(
        update={
            **_ALONE,
            "prompt": prompt,
            "segments": values["segments"],
            "segment_prompts": (),
            "auto_extend": False,
            "num_frames": frames,
            "seed": segment_seed(spec.seed, spec.segments) if seeds is None else seeds[0],
            "seam_frames": seam,
            "extends": job_id,
            "begins_with": None,
            "enhance": spec.enhance if changes["enhance"] is None else changes["enhance"],
            "custom_id": None,
            "preset_digest": library.digest(preset.name),
        }
    )


def _store(
    database: Database,
    settings: Settings,
    state: ContinuationRef,
    spec: JobSpec,
    options: BatchOptions,
    json: bool,
    beginning: _Finished | None = None,
    files: Mapping[str, StoredInput] | None = None,
) -> int:
    try:
        check_fits(state, frames=spec.seam_frames, height=spec.height, width=spec.width)
    except RefusedError as error:
        raise ConflictError(f"{spec.extends}: {error}") from None
    content = sha256_hex(canonical_json(spec.model_dump(mode="json")))
    inputs = dict(files or {}) if beginning is None else {beginning.file.sha256: beginning.file}
    new = Submission([PlannedJob(1, 0, spec)], content, inputs, f"extend-{spec.extends}")
    stored = submission.store(new, options, settings=settings, database=database, again=True, states={0: state})
    after = f", after its {spec.frames_before}" if spec.frames_before else ""
    summary = f"1 job stored, {spec.total_frames} frames that go on from {spec.extends}{after}"
    print_stored(stored, summary, options, settings=settings, database=database, json=json)
    return 0


def _checked_bytes(path: Path, blob: dict[str, Any]) -> bytes:
    data = path.read_bytes()
    if (digest := sha256_hex(data)) != blob["sha256"]:
        raise NotFoundError(f"{blob['key']} in the store has sha256 {digest}: it is damaged")
    return data
