"""Cancels, retries, approves and rejects stored jobs.

An id is a job's, or a batch's, which stands for all of its jobs to which the change applies.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from sqlalchemy.orm import Session

from db.clips import batches, jobs, lookup, selection
from db.clips import cancel_retry_approve as requests
from db.clips.selection import Selection
from db.evals import score_steps
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.states import JobState
from service.labels import label_of
from service.views.operations import ChangedView

_CHUNK = 500
"""Jobs changed in one transaction: on SQLite others wait for it."""
_EXPLAINED = 10
_OPEN = (JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT)


class ChangeAll(Protocol):
    """Changes those of the jobs to which it applies; their ids. Without ``wait`` it leaves out what others hold."""

    def __call__(self, session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]: ...


def cancel(database: Database, ids: Sequence[str], *, label: str | None = None) -> ChangedView:
    """Cancel jobs; a running one stops within a denoising step. Finished clips are kept."""
    chosen = Selection(_OPEN, label=None if label is None else label_of(label))
    return _change(database, ids, chosen, requests.cancel_all)


def whole_batches(database: Database, ids: Sequence[str]) -> list[str]:
    """Return the ids of the batches among what was named. Raises NotFoundError."""
    with database.reading() as session:
        targets = [lookup.target_named(session, name) for name in ids]
    return [target.batch_id for target in targets if target.job_id is None]


def cancel_scoring(database: Database, batch_id: str) -> int:
    """Cancel the steps of a whole batch's evaluation runs; how many there were."""
    with database.transaction() as session:
        return score_steps.cancel(session, batches.get(session, batch_id).id)


def retry(database: Database, ids: Sequence[str], *, label: str | None = None, code: str | None = None) -> ChangedView:
    """Queue failed or cancelled jobs again, at the step where they ended; with ``code`` those that failed with it."""
    states = (JobState.FAILED, JobState.CANCELLED) if code is None else (JobState.FAILED,)
    return _change(
        database,
        ids,
        Selection(states, code=code, label=None if label is None else label_of(label)),
        requests.retry_all,
    )


def approve(database: Database, ids: Sequence[str], *, by: str) -> ChangedView:
    """Approve held jobs, which then continue."""
    return _change(database, ids, Selection((JobState.HELD,)), _one_by_one(partial(requests.approve, by=by)))


def reject(database: Database, ids: Sequence[str], *, by: str) -> ChangedView:
    """Reject held jobs, which are then blocked."""
    return _change(database, ids, Selection((JobState.HELD,)), _one_by_one(partial(requests.reject, by=by)))


def _one_by_one(change: Callable[[Session, str], bool]) -> ChangeAll:
    """Change one job at a time, in the order of their ids, so that no two commands deadlock: for the rarer verbs."""

    def change_all(session: Session, job_ids: Sequence[str], *, wait: bool = True) -> list[str]:
        return [job_id for job_id in sorted(job_ids) if change(session, job_id)]

    return change_all


def _change(database: Database, ids: Sequence[str], chosen: Selection, change: ChangeAll) -> ChangedView:
    """Change the jobs named and those chosen, a page at a time; ids are all looked up before the first is changed."""
    if not ids and chosen.label is None and chosen.code is None:
        raise InputError([Problem("name the jobs: ids of jobs or batches, --label, or for a retry --code")])
    changed: list[str] = []
    unchanged: list[str] = []
    for page in _pages(database, ids, chosen):
        done = set(_change_page(database, page, change))
        changed += [job_id for job_id in page if job_id in done]
        unchanged += [job_id for job_id in page if job_id not in done]
    return ChangedView(changed=changed, unchanged=unchanged, reasons=_reasons(database, unchanged[:_EXPLAINED], chosen))


def _reasons(database: Database, job_ids: Sequence[str], chosen: Selection) -> dict[str, str]:
    """Say of each job why it stayed as it was."""
    if not job_ids:
        return {}
    wanted = " or ".join(state.value for state in chosen.states)
    with database.reading() as session:
        rows = {job_id: jobs.get(session, job_id) for job_id in job_ids}
        return {
            job_id: "it was deleted" if job.deleted_at is not None else f"it is {job.state.value}, not {wanted}"
            for job_id, job in rows.items()
        }


def _pages(database: Database, ids: Sequence[str], chosen: Selection) -> Iterator[list[str]]:
    """Pages of job ids; a batch stands for those of its jobs that are chosen. Raises NotFoundError, InputError."""
    named: dict[str, None] = {}
    whole: dict[str, None] = {}
    with database.reading() as session:
        for name in ids:
            target = lookup.target_named(session, name)
            if target.job_id is None:
                whole[target.batch_id] = None
            elif chosen.label is not None or chosen.code is not None:
                raise InputError([Problem(f"{name!r} is a job: --label and --code choose among those of batches")])
            else:
                named[target.job_id] = None
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
