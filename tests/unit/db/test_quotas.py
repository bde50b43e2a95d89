"""Quotas of keys, where batches are stored: counted once, also by two at one instant, and only for requests by keys."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import select, update

from db import api_keys
from db.clips import cancel_retry_approve as requests
from db.events import acting_key
from db.models import Batch, Job, Step
from db.session import Database, now_ms
from pipeline.errors import QuotaError, TooManyAtOnceError
from pipeline.states import Stage
from tests.unit.db.line import Line

KEY = "k1234567"
DAY_MS = 86_400_000


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _key(line: Line, **quotas: int) -> None:
    with line.database.transaction() as session:
        api_keys.add(
            session,
            KEY,
            secret_sha256="0" * 64,
            name="ci",
            owner="ada",
            scopes=[],
            lifetime_ms=None,
            by="t",
            quotas=quotas,
        )


@contextmanager
def _acting(key: str | None = KEY) -> Iterator[None]:
    token = acting_key.set(key)
    try:
        yield
    finally:
        acting_key.reset(token)


def _submit(line: Line, count: int = 1) -> str:
    with _acting():
        return line.submit(count=count, again=True)


def _age(line: Line, batch_id: str, ms: int) -> None:
    with line.database.transaction() as session:
        session.execute(update(Batch).where(Batch.id == batch_id).values(created_at=Batch.created_at - ms))


def test_open_jobs_are_counted_until_they_have_ended_and_what_is_refused_leaves_nothing(line: Line) -> None:
    _key(line, max_active_jobs=3)
    batch_id = _submit(line, count=2)
    with pytest.raises(TooManyAtOnceError, match="3 jobs open and has 2") as refused:
        _submit(line, count=2)
    assert refused.value.retry_after_s is not None
    with pytest.raises(QuotaError, match="4 jobs at once") as never:
        _submit(line, count=4)
    assert (never.value.code, never.value.retry_after_s) == ("insufficient_quota", None)
    with line.database.reading() as session:
        assert session.scalars(select(Batch.id)).all() == [batch_id]
        assert len(session.scalars(select(Job.id)).all()) == 2

    with line.database.transaction() as session:
        requests.cancel_all(session, [f"{batch_id}-000000"])
    _submit(line, count=2)

    # Without a key nothing is counted
    with _acting(None):
        line.submit(count=50, again=True)


def test_a_day_is_the_last_24_hours(line: Line) -> None:
    _key(line, max_daily_clips=3)
    old = _submit(line, count=2)
    with line.database.transaction() as session:
        requests.cancel_all(session, [f"{old}-00000{number}" for number in (0, 1)])
    _age(line, old, DAY_MS - 60_000)
    with pytest.raises(QuotaError, match="requested 2 in the last 24 hours") as refused:
        _submit(line, count=2)
    assert refused.value.code == "insufficient_quota"
    assert 30 <= (refused.value.retry_after_s or 0) <= 61
    _age(line, old, 120_000)
    _submit(line, count=3)


def test_gpu_time_is_counted_for_keys_that_it_is_limited_for(line: Line) -> None:
    _key(line, max_daily_gpu_ms=15_000)
    line.worker()
    batch_id = _submit(line)
    claimed = line.go_on(f"{batch_id}-000000", Stage.GENERATE)
    with line.database.transaction() as session:
        session.execute(update(Step).where(Step.id == claimed.step_id).values(started_at=now_ms() - 20_000))
    line.finish(claimed)
    assert line.batch(batch_id).gpu_ms == pytest.approx(20_000, abs=5_000)
    with pytest.raises(QuotaError, match="15 seconds of GPU time a day"):
        _submit(line)
    with line.database.transaction() as session:
        api_keys.limit(session, KEY, {"max_daily_gpu_ms": None}, by="t")
    _submit(line)


def test_several_at_one_instant_are_each_counted(line: Line) -> None:
    _key(line, max_active_jobs=3)

    def one(_: int) -> bool:
        try:
            _submit(line)
        except TooManyAtOnceError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(one, range(6))) == 3
