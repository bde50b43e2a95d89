"""Extends a finished clip: a new clip that starts from its last frames and, if wanted, begins with it."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from db.clips import batches, continuations, jobs, lookup
from db.clips.batches import Submitted
from db.reading import history
from db.session import Database
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import ConflictError, InputError, NotFoundError, Problem, RefusedError
from pipeline.inputs.collector import StoredInput
from pipeline.presets import load_library
from pipeline.prompts import PlannedJob, Submission
from pipeline.prompts.fields import PARSERS
from pipeline.seeds import roll_seed, segment_seed
from pipeline.settings import Settings
from pipeline.spec import MAX_SEGMENTS, BatchOptions, Beginning, JobSpec
from pipeline.stages.continuation import check_fits
from pipeline.states import JobState
from pipeline.wiring import make_storage
from pipeline.work import ContinuationRef
from service import submission

_ALONE = {"image": None, "last_image": None, "video": None, "reference_images": ()}


@dataclass(frozen=True, slots=True)
class Left:
    """What a finished job left for the clip that goes on from it."""

    job_id: str
    state: ContinuationRef
    spec: JobSpec
    options: BatchOptions


@dataclass(frozen=True, slots=True)
class Extended:
    """A clip that was stored to go on from another."""

    stored: Submitted
    spec: JobSpec
    options: BatchOptions


@dataclass(frozen=True, slots=True)
class _Beginning:
    """A finished clip as the beginning of another, and its file on this host."""

    spec: Beginning
    file: StoredInput


def extend(
    database: Database,
    settings: Settings,
    job_id: str,
    prompt: str,
    changes: Mapping[str, Any],
    *,
    whole: bool,
    owner: str | None = None,
    also: Callable[[Session, str], None] | None = None,
) -> Extended:
    """Store a clip that goes on where a job's ends; ``whole``: it begins with it. ``also`` as in ``submission.store``.

    Raises:
        NotFoundError: there is no such job, or its file is gone.
        ConflictError: it has not succeeded, or its preset cannot go on.
        InputError: every mistake in the prompt and the changes.
    """
    left = left_by(database, job_id)
    spec = next_spec(left.spec, left.job_id, prompt, changes, settings)
    if not whole:
        return Extended(
            store(database, settings, left.state, spec, left.options, owner=owner, also=also), spec, left.options
        )
    with tempfile.TemporaryDirectory(prefix="vgen-extend-") as folder:
        beginning = _beginning(database, settings, left.job_id, left.spec, Path(folder))
        spec = spec.model_copy(update={"begins_with": beginning.spec})
        files = {beginning.file.sha256: beginning.file}
        stored = store(database, settings, left.state, spec, left.options, files, owner=owner, also=also)
    return Extended(stored, spec, left.options)


def left_by(database: Database, job_id: str) -> Left:
    """Return what a finished job left for another clip.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has not succeeded, or its preset cannot go on.
    """
    with database.reading() as session:
        job = lookup.job_named(session, job_id)
        if job.state is not JobState.SUCCEEDED:
            raise ConflictError(f"job {job.id} is {job.state.value}: only a finished clip is extended")
        state = continuations.last(session, job.id, job.roll)
        stored = BatchOptions.model_validate(batches.get(session, job.batch_id).options)
        options = stored.model_copy(update={"session": None})
        spec = JobSpec.model_validate(job.spec)
    if state is None:
        raise ConflictError(
            f"job {job.id}: preset {spec.preset} cannot continue from given frames, or the frames are no longer kept"
        )
    return Left(job.id, state, spec.model_copy(update={"seed": roll_seed(spec.seed, job.roll)}), options)


def next_spec(spec: JobSpec, job_id: str, prompt: str, changes: Mapping[str, Any], settings: Settings) -> JobSpec:
    """Return the clip to be made after that job's. Raises InputError with every mistake."""
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
        why = library.explain(spec.preset) if preset is None else f"{spec.preset!r} cannot continue from given frames"
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
            "enhance": spec.enhance if changes.get("enhance") is None else changes["enhance"],
            "custom_id": None,
            "preset_digest": library.digest(preset.name),
        }
    )


def store(
    database: Database,
    settings: Settings,
    state: ContinuationRef,
    spec: JobSpec,
    options: BatchOptions,
    files: Mapping[str, StoredInput] | None = None,
    *,
    owner: str | None = None,
    also: Callable[[Session, str], None] | None = None,
) -> Submitted:
    """Store the clip as a batch. Raises ConflictError: the state does not fit it."""
    try:
        check_fits(state, frames=spec.seam_frames, height=spec.height, width=spec.width)
    except RefusedError as error:
        raise ConflictError(f"{spec.extends}: {error}") from None
    content = sha256_hex(canonical_json(spec.model_dump(mode="json")))
    new = Submission([PlannedJob(1, 0, spec)], content, dict(files or {}), f"extend-{spec.extends}")
    return submission.store(
        new, options, settings=settings, database=database, owner=owner, again=True, states={0: state}, also=also
    )


def _beginning(database: Database, settings: Settings, job_id: str, spec: JobSpec, folder: Path) -> _Beginning:
    """Raises NotFoundError; the clip's file is gone or damaged."""
    with database.reading() as session:
        video = jobs.artifacts(session, [job_id])[job_id]["video"]
        digests = [segment.frames_sha256 for segment in history.segments_of_job(session, jobs.get(session, job_id))]
    path = folder / "before.mp4"
    try:
        make_storage(settings).download(video.key, path)
    except NotFoundError:
        raise NotFoundError(f"{video.key} is not in the store; --part makes a clip of what is new") from None
    checked_bytes(path, {"key": video.key, "sha256": video.sha256})
    file = StoredInput(
        video.sha256, video.media_type, f"{job_id}.mp4", video.size, path=path, num_frames=spec.clip_frames
    )
    before = () if spec.begins_with is None else spec.begins_with.frames_sha256
    return _Beginning(Beginning(video=file.ref, frames_sha256=(*before, *digests)), file)


def checked_bytes(path: Path, blob: Mapping[str, Any]) -> bytes:
    """Read an object of the store that lies here. Raises NotFoundError: it is damaged."""
    data = path.read_bytes()
    if (digest := sha256_hex(data)) != blob["sha256"]:
        raise NotFoundError(f"{blob['key']} in the store has sha256 {digest}: it is damaged")
    return data
