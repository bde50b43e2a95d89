"""`vgen cancel`, `retry`, `approve` and `reject`: what a person may ask of jobs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Protocol

import typer
from sqlalchemy.orm import Session

from cli import output
from cli.context import open_database, settings_of
from cli.options import Json, label_of
from db.clips import batches, jobs, selection
from db.clips import cancel_retry_approve as requests
from db.clips.selection import Selection
from db.evals import score_steps
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.settings import Settings
from pipeline.states import JobState
from service.views.operations import ChangedView


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
    chosen = Selection(_OPEN, label=None if label is None else label_of(label))
    code = _change(ctx, ids or [], chosen, requests.cancel_all, "cancelled", json)
    if label is None:
        _cancel_scoring(settings_of(ctx), [name for name in ids or [] if "-" not in name])
    return code


def _cancel_scoring(settings: Settings, batch_ids: Sequence[str]) -> None:
    """Cancel the steps of whole batches' evaluation runs too."""
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
    states = (JobState.FAILED, JobState.CANCELLED) if code is None else (JobState.FAILED,)
    chosen = Selection(states, code=code, label=None if label is None else label_of(label))
    return _change(ctx, ids or [], chosen, requests.retry_all, "queued again", json)


def approve(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Let held jobs go on."""
    by = settings_of(ctx).owner
    return _change(
        ctx, ids, Selection((JobState.HELD,)), _one_by_one(partial(requests.approve, by=by)), "approved", json
    )


def reject(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Block held jobs."""
    by = settings_of(ctx).owner
    return _change(
        ctx, ids, Selection((JobState.HELD,)), _one_by_one(partial(requests.reject, by=by)), "rejected", json
    )


def _one_by_one(change: Callable[[Session, str], bool]) -> ChangeAll:
    """Change one job at a time, in the order of their ids, so that no two commands deadlock: for the rarer verbs."""

    def change_all(session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]:
        return [job_id for job_id in sorted(job_ids) if change(session, job_id)]

    return change_all


def _change(ctx: typer.Context, ids: Sequence[str], chosen: Selection, change: ChangeAll, word: str, json: bool) -> int:
    """Change the jobs named and those chosen, a page at a time; ids are all looked up before the first is changed."""
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
