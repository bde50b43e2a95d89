"""What a client is told while its session has no GPU: a model that is not there, GPUs that other sessions have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from db import schema
from db.reading.reasons import Code
from db.scheduling import worker_presets
from db.session import Database
from pipeline.settings import load_settings
from server.stream.line import source as line_source
from server.stream.source import Assigned, OnHold, SourceError, Waiting, no_gpu_in_time
from service import sessions
from tests.unit.db.session_line import SessionLine
from tests.unit.server.stream.test_line_source import ID, left, opening, source_of


@pytest.fixture
def line(tmp_path: Path) -> Iterator[SessionLine]:
    database = Database(f"sqlite:///{tmp_path / 'line.db'}")
    try:
        schema.upgrade(database)
        made = SessionLine(database)
        made.worker(slots=1)
        yield made
    finally:
        database.close()


async def _told(places: AsyncIterator[Waiting | Assigned]) -> OnHold:
    async for place in places:
        if isinstance(place, Waiting) and place.reason is not None:
            return place.reason
    raise AssertionError("no reason was told")


def test_a_session_whose_model_is_not_on_the_one_machine_is_refused_at_once(line: SessionLine, tmp_path: Path) -> None:
    line.settings = load_settings(home=tmp_path / "home", cache_dir=tmp_path / "cache")
    assert line.settings.solo

    async def run() -> None:
        with pytest.raises(SourceError, match=r"`vgen models pull wan2\.1-t2v-1\.3b`") as raised:
            await anext(aiter(source_of(line).open(opening(preset="wan2.1-t2v-1.3b"))))
        assert (raised.value.code, raised.value.retryable) == ("preset_mismatch", False)

    asyncio.run(run())
    assert line.all_sessions() == []


def test_a_client_is_told_that_no_worker_has_its_model(line: SessionLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_source, "_REASON_S", 0.0)
    with line.database.transaction() as session:
        worker_presets.record_failed_load(session, "w1", "idle", code="model_missing", error="no weights")

    async def run() -> OnHold:
        source = source_of(line)
        why = await asyncio.wait_for(_told(source.open(opening())), 30)
        shown = sessions.session_view(line.database, ID, settings=line.settings).reason
        assert shown is not None
        assert (shown.code, shown.mend) == ("model_missing", "vgen models pull idle")
        await left(source)
        return why

    why = asyncio.run(run())
    assert why.code == Code.MODEL_MISSING.value
    assert "no weights" in why.text
    assert "no weights" in no_gpu_in_time(300, Waiting(1, 1, why)).message


@pytest.mark.parametrize(("silent_s", "told"), [(0.0, "other sessions"), (20.0, "unless the client comes back")])
def test_a_client_is_told_that_other_sessions_have_the_gpus(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch, silent_s: float, told: str
) -> None:
    monkeypatch.setattr(line_source, "_REASON_S", 0.0)
    first = line.open(owner="bob")
    line.reserve()
    line.silence(first.id, silent_s)

    async def run() -> OnHold:
        source = source_of(line)
        why = await asyncio.wait_for(_told(source.open(opening())), 30)
        await left(source)
        return why

    why = asyncio.run(run())
    assert (why.code, told in why.text, "1 of 1 GPUs" in why.text) == ("reserved_for_sessions", True, True)
    assert ("away" in why.text) == bool(silent_s)
    assert "bob" not in why.text
    assert first.id not in why.text
