"""Makes clips again as a new batch: same specification, seed and prompts."""

from collections.abc import Mapping, Sequence

from db.clips import batches, continuations, jobs, lookup
from db.clips.batches import Submitted
from db.reading import history
from db.session import Database
from db.sessions import joined
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import ConflictError, InputError, NotFoundError, Problem, RefusedError
from pipeline.inputs.collector import StoredInput
from pipeline.prompts import PlannedJob, Submission
from pipeline.seeds import roll_seed
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.stages.continuation import check_fits
from pipeline.wiring import make_storage
from pipeline.work import ContinuationRef
from service import submission

Clip = tuple[str, JobSpec, BatchOptions]
"""Where a clip is from (a job's id, a file's name), its specification and its batch's options."""


def as_made(database: Database, job_id: str) -> tuple[JobSpec, BatchOptions]:
    """Return the specification that makes a job's clip once more.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it joins the clips of a session, and makes none of its own.
    """
    with database.reading() as session:
        job = lookup.job_named(session, job_id)
        if joined.is_joined(session, job.id):
            raise ConflictError(f"job {job.id} joins the clips of a session: rerun those instead")
        stored = BatchOptions.model_validate(batches.get(session, job.batch_id).options)
        options = stored.model_copy(update={"session": None})
        prompts = history.segment_prompts(session, [job.id]).get(job.id, [])
    spec = JobSpec.model_validate(job.spec)
    return _pinned(spec.model_copy(update={"seed": roll_seed(spec.seed, job.roll)}), prompts), options


def store_again(
    clips: Sequence[Clip],
    *,
    settings: Settings,
    database: Database,
    name: str,
    owner: str | None = None,
    inputs: Mapping[str, StoredInput] | None = None,
) -> Submitted:
    """Store a new batch of these clips.

    Raises:
        InputError: they were made with different batch options.
        NotFoundError: an input, or the last frames of a clip that one of them extends, is no longer kept.
        ConflictError: those frames do not fit.
    """
    options = clips[0][2]
    if any(other != options for _, _, other in clips):
        raise InputError([Problem("the clips were made with different batch options: rerun them one by one")])
    specs = [spec for _, spec, _ in clips]
    _check_inputs(settings, specs)
    planned: list[PlannedJob] = [PlannedJob(line, 0, spec) for line, spec in enumerate(specs, 1)]
    content = canonical_json([spec.model_dump(mode="json") for spec in specs])
    return submission.store(
        Submission(planned, sha256_hex(content), dict(inputs or {}), f"rerun of {clips[0][0]}"),
        options,
        settings=settings,
        database=database,
        name=name,
        owner=owner,
        again=True,
        states=_states(database, clips),
    )


def _pinned(spec: JobSpec, prompts: Sequence[str]) -> JobSpec:
    """The specification with the prompts that were used: an enhancer would not answer the same again.

    Where not every segment was made, what the enhancer is to do is left to it.
    """
    if len(prompts) < spec.segments:
        return spec
    several = tuple(prompts) if spec.segments > 1 else ()
    used = {"prompt": prompts[0], "segment_prompts": several, "enhance": False, "auto_extend": False}
    return spec.model_copy(update=used)


def _check_inputs(settings: Settings, specs: Sequence[JobSpec]) -> None:
    storage = make_storage(settings)
    for spec in specs:
        for ref in spec.input_refs:
            if storage.stat(ref.key) is None:
                raise NotFoundError(f"input {ref.name!r} ({ref.key}) is no longer in the store")


def _states(database: Database, clips: Sequence[Clip]) -> dict[int, ContinuationRef]:
    """Return the states that clips to be made once more start from, where they extend another, by their place."""
    states = {}
    with database.reading() as session:
        for place, (source, spec, _) in enumerate(clips):
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
