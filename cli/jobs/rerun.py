"""`vgen rerun`: clips once more, exactly as specified."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.batches.stored import print_stored
from cli.context import open_database, settings_of
from cli.jobs import extend, imports
from cli.options import Json, checked_owner
from db.clips import batches, jobs
from db.reading import history
from db.session import Database
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import InputError, NotFoundError, Problem
from pipeline.prompts import PlannedJob, Submission
from pipeline.prompts.stored_inputs import StoredInputs
from pipeline.seeds import roll_seed
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.storage.base import Storage
from pipeline.wiring import make_storage
from service import submission


def rerun(
    ctx: typer.Context,
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Job ids or sidecar files (.json) of clips.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the new batch.")] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", callback=checked_owner, help="The owner of the batch.")
    ] = None,
    json: Json = False,
) -> int:
    """Make clips once more, exactly as specified, as a new batch: same seed, enhanced prompt pinned."""
    settings = settings_of(ctx)
    with open_database(settings, upgrade=True) as database:
        inputs = imports.stored_inputs(settings)
        originals = [_source(database, settings, source, inputs) for source in sources]
        options = originals[0][1]
        if any(other != options for _, other in originals):
            raise InputError([Problem("the clips were made with different batch options: rerun them one by one")])
        _check_inputs(make_storage(settings), [spec for spec, _ in originals])
        planned: list[PlannedJob] = [PlannedJob(line, 0, spec) for line, (spec, _) in enumerate(originals, 1)]
        content = canonical_json([spec.model_dump(mode="json") for spec, _ in originals])
        states = extend.states_of(database, sources, [spec for spec, _ in originals])
        new = Submission(planned, sha256_hex(content), dict(inputs.stored), f"rerun of {_encodable(sources[0])}")
        stored = submission.store(
            new,
            options,
            settings=settings,
            database=database,
            name=name or f"rerun-{_encodable(Path(sources[0]).stem[:40])}",
            owner=owner,
            again=True,
            states=states,
        )
        summary = f"{stored.total} jobs stored"
        print_stored(stored, summary, options, settings=settings, database=database, json=json)
    return 0


def _encodable(text: str) -> str:
    """A file's name as UTF-8 has it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _source(database: Database, settings: Settings, source: str, inputs: StoredInputs) -> tuple[JobSpec, BatchOptions]:
    if source.endswith(".json") or "/" in source:
        imported, options = imports.of_sidecar(Path(source), settings, inputs)
        return imported.spec, options

    with database.reading() as session:
        job = jobs.get(session, source)
        options = BatchOptions.model_validate(batches.get(session, job.batch_id).options)
        prompts = history.segment_prompts(session, [job.id]).get(job.id, [])
    spec = JobSpec.model_validate(job.spec)
    return _pinned(spec.model_copy(update={"seed": roll_seed(spec.seed, job.roll)}), prompts), options


def _pinned(spec: JobSpec, prompts: Sequence[str]) -> JobSpec:
    """The specification with the prompts that were used: an enhancer would not answer the same again.

    Where not every segment was made, what the enhancer is to do is left to it.
    """
    if len(prompts) < spec.segments:
        return spec
    several = tuple(prompts) if spec.segments > 1 else ()
    used = {"prompt": prompts[0], "segment_prompts": several, "enhance": False, "auto_extend": False}
    return spec.model_copy(update=used)


def _check_inputs(storage: Storage, specs: Sequence[JobSpec]) -> None:
    for spec in specs:
        for ref in spec.input_refs:
            if storage.stat(ref.key) is None:
                raise NotFoundError(f"input {ref.name!r} ({ref.key}) is no longer in the store")
