"""`vgen cancel`, `retry`, `approve`, `reject` and `rerun`: what a person may ask of jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.options import Json, checked_owner, label_of
from pipeline.errors import InputError, NotFoundError, Problem
from pipeline.states import JobState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.clips.selection import Selection
    from db.session import Database
    from pipeline.prompts import PlannedJob
    from pipeline.prompts.stored_inputs import StoredInputs
    from pipeline.settings import Settings
    from pipeline.spec import BatchOptions, JobSpec
    from pipeline.storage.base import Storage


class ChangeAll(Protocol):
    """Changes those of the jobs to which it applies; their ids. Without ``wait`` it leaves out what others hold."""

    def __call__(self, session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]: ...


Targets = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Jobs, or batches: all of a batch's jobs to which it applies.")
]
Chosen = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID...]", help="Jobs, or batches: those of a batch's jobs to which it applies."),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--label", metavar="NAME[=VALUE]", help="Only jobs with this label; without a batch, those of every batch."
    ),
]
_CHUNK = 500
"""Jobs changed in one transaction: on SQLite others wait for it."""

_OPEN = (JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT)


def cancel(ctx: typer.Context, ids: Chosen = None, label: Label = None, json: Json = False) -> int:
    """Stop jobs; a running one stops within a step. What has succeeded stays."""
    from db.clips import jobs
    from db.clips.selection import Selection

    chosen = Selection(_OPEN, label=None if label is None else label_of(label))
    code = _change(ctx, ids or [], chosen, jobs.cancel_all, "cancelled", json)
    if label is None:
        _cancel_scoring(settings_of(ctx), [name for name in ids or [] if "-" not in name])
    return code


def _cancel_scoring(settings: Settings, batch_ids: Sequence[str]) -> None:
    """Cancel the steps of whole batches' evaluation runs too."""
    from db.clips import batches
    from db.evals import score_steps

    with open_database(settings) as database:
        for batch_id in batch_ids:
            with database.transaction() as session:
                count = score_steps.cancel(session, batches.get(session, batch_id).id)
            if count:
                output.notice(f"batch {batch_id}: {count} score steps cancelled")


def retry(
    ctx: typer.Context,
    ids: Chosen = None,
    label: Label = None,
    code: Annotated[
        str | None,
        typer.Option("--code", help="Only jobs that failed with this error; without a batch, those of every batch."),
    ] = None,
    json: Json = False,
) -> int:
    """Queue failed or cancelled jobs again, at the step where they ended."""
    from db.clips import jobs
    from db.clips.selection import Selection

    states = (JobState.FAILED, JobState.CANCELLED) if code is None else (JobState.FAILED,)
    chosen = Selection(states, code=code, label=None if label is None else label_of(label))
    return _change(ctx, ids or [], chosen, jobs.retry_all, "queued again", json)


def approve(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Let held jobs go on."""
    from db.clips import jobs
    from db.clips.selection import Selection

    by = settings_of(ctx).owner
    return _change(ctx, ids, Selection((JobState.HELD,)), _one_by_one(partial(jobs.approve, by=by)), "approved", json)


def reject(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Block held jobs."""
    from db.clips import jobs
    from db.clips.selection import Selection

    by = settings_of(ctx).owner
    return _change(ctx, ids, Selection((JobState.HELD,)), _one_by_one(partial(jobs.reject, by=by)), "rejected", json)


def _one_by_one(change: Callable[[Session, str], bool]) -> ChangeAll:
    """Change one job at a time, in the order of their ids, so that no two commands deadlock: for the rarer verbs."""

    def change_all(session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]:
        return [job_id for job_id in sorted(job_ids) if change(session, job_id)]

    return change_all


def _change(ctx: typer.Context, ids: Sequence[str], chosen: Selection, change: ChangeAll, word: str, json: bool) -> int:
    """Change the jobs named and those chosen, a page at a time; ids are all looked up before the first is changed."""
    from service.views.operations import ChangedView

    if not ids and chosen.label is None and chosen.code is None:
        raise InputError([Problem("say which: ids of jobs or batches, --label, or for a retry --code")])
    changed: list[str] = []
    unchanged: list[str] = []
    settings = settings_of(ctx)
    with open_database(settings) as database:
        for page in _pages(database, ids, chosen):
            done = set(_change_page(database, page, change))
            changed += [job_id for job_id in page if job_id in done]
            unchanged += [job_id for job_id in page if job_id not in done]
    if json:
        output.as_json(ChangedView(changed=changed, unchanged=unchanged))
        return 0
    output.line(f"{len(changed)} jobs {word}")
    if unchanged:
        output.notice(f"it does not apply to {', '.join(unchanged[:10])}{' …' if len(unchanged) > 10 else ''}")
    if settings.solo and changed and word in ("queued again", "approved"):
        output.line("next: vgen run")
    return 0


def _pages(database: Database, ids: Sequence[str], chosen: Selection) -> Iterator[list[str]]:
    """Pages of job ids; a batch stands for those of its jobs that are chosen. Raises NotFoundError, InputError."""
    from db.clips import batches, jobs, selection

    named: dict[str, None] = {}
    whole: dict[str, None] = {}
    with database.reading() as session:
        for name in ids:
            if "-" not in name:
                whole[batches.get(session, name).id] = None
            elif chosen.label is not None or chosen.code is not None:
                raise InputError([Problem(f"{name!r} is a job: --label and --code choose among those of batches")])
            else:
                named[jobs.get(session, name).id] = None
        if not ids:
            whole = dict.fromkeys(selection.batches_with(session, chosen))
    job_ids = [job_id for job_id in named if job_id.partition("-")[0] not in whole]
    yield from (job_ids[start : start + _CHUNK] for start in range(0, len(job_ids), _CHUNK))
    for batch_id in whole:
        yield from selection.pages(database, batch_id, chosen, size=_CHUNK)


def _change_page(database: Database, page: Sequence[str], change: ChangeAll) -> list[str]:
    """Change what nobody has locked at once, and what is left one at a time: then none waits holding others."""
    with database.transaction() as session:
        changed = change(session, page, wait=False)
    for job_id in sorted(set(page) - set(changed)):
        with database.transaction() as session:
            changed = [*changed, *change(session, [job_id])]
    return changed


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
    from cli.batches.stored import print_stored
    from cli.jobs import extend, imports
    from pipeline.digests import canonical_json, sha256_hex
    from pipeline.prompts import PlannedJob, Submission
    from pipeline.wiring import make_storage
    from service import submission

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
        from cli.jobs import imports

        imported, options = imports.of_sidecar(Path(source), settings, inputs)
        return imported.spec, options
    from db.clips import batches, jobs
    from db.reading import history
    from pipeline.seeds import roll_seed
    from pipeline.spec import BatchOptions, JobSpec

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
