"""One GPU and two presets in one file: they are loaded about once each, whatever their order."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from db import workers
from db.models import Event, Worker
from pipeline.policy.routes import gpu_queue
from tests.line_helpers import assert_published_once, home_of, settings_for, submit, work_off


def test_two_presets_in_turn_are_at_most_three_loads(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    settings.effective_presets_dir.mkdir(parents=True)
    for name in ("one", "two.5"):
        (settings.effective_presets_dir / f"{name}.toml").write_text('extends = "idle"\n')
    lines = [{"prompt": "a", "preset": ("one", "two.5")[number % 2], "num_frames": 1} for number in range(12)]

    with home_of(settings) as database:
        batch_id = submit(settings, database, lines)
        work_off(settings, database, batch_id)

        assert_published_once(settings, database, batch_id)
        with database.reading() as session:
            loads = [event.data for event in session.scalars(select(Event).where(Event.kind == "model_loaded"))]
    loaded = [load["preset"] for load in loads]
    assert {load["source"] for load in loads} == {"disk"}
    assert all(load["seconds"] >= 0 for load in loads)
    assert set(loaded) == {"one", "two.5"}
    assert len(loaded) <= 3


def test_the_worker_of_a_run_that_was_killed_keeps_no_preset(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        with database.transaction() as session:
            report = workers.WorkerReport(
                name="gpu0@killed.1", host="killed", pid=1, queues=(gpu_queue("cpu"),), slots=1, gpu_type="cpu"
            )
            workers.report(session, report)
            session.get_one(Worker, report.name).assigned_preset = "idle"

        batch_id = submit(settings, database, [{"prompt": "a", "preset": "idle", "num_frames": 1}])
        work_off(settings, database, batch_id)

        assert_published_once(settings, database, batch_id)
        with database.reading() as session:
            assert "gpu0@killed.1" not in session.scalars(select(Worker.name)).all()
