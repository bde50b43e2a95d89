"""Quotas of API keys: open jobs, clips and GPU seconds per day. They are checked when a batch is stored."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from db.models import ApiKey, Batch, Job
from db.session import now_ms
from pipeline.errors import QuotaError, TooManyAtOnceError
from pipeline.states import TERMINAL_JOB_STATES

_DAY_MS = 86_400_000
_ACTIVE_RETRY_S = 15
"""When to try again where open jobs are too many: any of them may end at any time."""


def require_room(session: Session, key_id: str, batch_id: str | None, jobs: int) -> None:
    """Refuse a batch of so many jobs that has just been stored, in the transaction that stores it.

    ``batch_id`` None: the jobs are yet to be added to one of the key's batches.

    Of two at one instant the second waits for the first, and counts it. Days are the last 24 hours.

    Raises:
        QuotaError: the key has no room for it; when there will be is in ``retry_after_s``.
    """
    # Locked whether or not it has quotas: else the first question would have to be asked twice.
    key = session.scalars(select(ApiKey).where(ApiKey.id == key_id).with_for_update()).one_or_none()
    if key is None:
        return
    earlier: _Conditions = (Batch.key_id == key_id, *(() if batch_id is None else (Batch.id != batch_id,)))
    if key.max_active_jobs is not None:
        _require_few_active(session, key.max_active_jobs, jobs, earlier)
    if key.max_daily_clips is not None:
        _require_few_today(session, key.max_daily_clips, jobs, earlier)
    if key.max_daily_gpu_ms is not None:
        _require_gpu_time(session, key.max_daily_gpu_ms, earlier)


_Conditions = tuple[ColumnElement[bool], ...]


def _require_few_active(session: Session, most: int, jobs: int, earlier: _Conditions) -> None:
    if jobs > most:
        raise QuotaError(f"{jobs} jobs at once: this key may have {most} open")
    open_jobs = (
        select(Job.id)
        .join(Batch, Batch.id == Job.batch_id)
        .where(*earlier, Batch.active, Job.state.not_in(TERMINAL_JOB_STATES))
        .limit(most + 1)
    )
    count = session.scalars(select(func.count()).select_from(open_jobs.subquery())).one()
    if count + jobs > most:
        message = f"this key may have {most} jobs open and has {count}: {_more(jobs)} when some have ended"
        raise TooManyAtOnceError(message, retry_after_s=_ACTIVE_RETRY_S)


def _require_few_today(session: Session, most: int, jobs: int, earlier: _Conditions) -> None:
    if jobs > most:
        raise QuotaError(f"{jobs} clips: this key may ask for {most} a day")
    count, wait_ms = _today(session, func.sum(Batch.total), earlier)
    if count + jobs > most:
        message = f"this key may request {most} clips a day and has requested {count} in the last 24 hours"
        raise QuotaError(message, retry_after_s=wait_ms // 1000 + 1)


def _require_gpu_time(session: Session, most_ms: int, earlier: _Conditions) -> None:
    used_ms, wait_ms = _today(session, func.sum(Batch.gpu_ms), earlier)
    if used_ms >= most_ms:
        message = (
            f"this key may use {most_ms / 1000:g} seconds of GPU time a day; "
            f"what it submitted in the last 24 hours has used {used_ms / 1000:.1f}"
        )
        raise QuotaError(message, retry_after_s=wait_ms // 1000 + 1)


def _today(session: Session, what: ColumnElement[int], earlier: _Conditions) -> tuple[int, int]:
    """Return the sum over the key's batches of the last 24 hours, and the milliseconds until the oldest leaves it."""
    since = now_ms() - _DAY_MS
    row = session.execute(
        select(func.coalesce(what, 0), func.min(Batch.created_at) - since).where(*earlier, Batch.created_at > since)
    ).one()
    return int(row[0]), int(row[1] or 0)


def counts_gpu_time() -> ColumnElement[bool]:
    """The batch is of a key whose GPU time is limited."""
    limited = select(ApiKey.id).where(ApiKey.id == Batch.key_id, ApiKey.max_daily_gpu_ms.is_not(None))
    return Batch.key_id.is_not(None) & limited.exists()


def _more(jobs: int) -> str:
    return "there is room for another" if jobs == 1 else f"there is room for {jobs} more"
