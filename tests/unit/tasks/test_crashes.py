"""A worker on which jobs crash in a row drains where it is broken, and not where the jobs are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.clips import cancel_retry_approve
from db.models import Batch, Worker
from db.session import Database
from pipeline.errors import CrashError, StoppedError
from pipeline.presets import all_presets
from pipeline.settings import load_settings
from pipeline.states import Stage
from pipeline.work import Claim
from tasks.worker import step
from tasks.worker.context import WorkerContext
from tasks.worker.crashes import CrashStreak
from tests.unit.db.line import QUEUES, Line

BROKEN = {"VGEN_FAILPOINTS": "denoise_step=kill"}
"""Every clip's generator dies, as on a GPU that has fallen off its bus."""
MakeRuntime = Callable[..., WorkerContext]


@pytest.fixture
def line(sqlite_database: Database) -> Line:
    return Line(sqlite_database)


@pytest.fixture
def context_of(sqlite_database: Database, tmp_path: Path) -> Iterator[MakeRuntime]:
    """The runtime of a cluster's GPU worker, whose generator is a real child."""
    made: list[WorkerContext] = []

    def make(**environment: str) -> WorkerContext:
        settings = load_settings(home=tmp_path, broker_url="redis://127.0.0.1:1/0", database_url="sqlite://")
        runtime = WorkerContext(
            "w1", settings, queues=QUEUES, stopping=lambda: None, database=sqlite_database, device_env=environment
        )
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        runtime.close()


def go_on() -> None:
    """The step may go on."""


def crash(runtime: WorkerContext, line: Line, claimed: Claim, check: Callable[[], None] = go_on) -> None:
    """Record that the generator died in the step, as the task does."""
    record = step._recorder(runtime, claimed, CrashError("died"), check)
    with line.database.transaction() as session:
        assert record(session, claimed).recorded


def crash_jobs(runtime: WorkerContext, line: Line, *lines: dict[str, Any], owners: tuple[str, ...] = ()) -> None:
    """Each of these jobs crashes once and is not tried again; it has a batch of its own, of ``owners`` by turns."""
    for number, fields in enumerate(lines):
        batch_id, job_id, claimed = line.bring_to(Stage.GENERATE, **fields)
        if owners:
            with line.database.transaction() as session:
                session.get_one(Batch, batch_id).owner = owners[number % len(owners)]
        crash(runtime, line, claimed)
        with line.database.transaction() as session:
            cancel_retry_approve.cancel(session, job_id)


def drain_reason(line: Line) -> str | None:
    with line.database.reading() as session:
        return session.scalars(select(Worker.drain_reason)).first()


def test_jobs_of_one_owner_do_not_drain_a_worker_that_can_make_a_clip(line: Line, context_of: MakeRuntime) -> None:
    runtime = context_of()
    crash_jobs(runtime, line, *({"seed": number} for number in range(7)))
    assert drain_reason(line) is None
    assert runtime.generator is not None
    assert runtime.generator.pid is not None, "it made clips of its own"


def test_a_worker_that_cannot_make_a_clip_of_its_own_drains_at_the_third(line: Line, context_of: MakeRuntime) -> None:
    runtime = context_of(**BROKEN)
    crash_jobs(runtime, line, {"seed": 1}, {"seed": 2})
    assert drain_reason(line) is None
    crash_jobs(runtime, line, {"seed": 3})
    assert drain_reason(line) == "3 different jobs crashed here in a row"


def test_jobs_that_have_nothing_in_common_drain_it(line: Line, context_of: MakeRuntime) -> None:
    runtime = context_of()
    crash_jobs(runtime, line, {"seed": 1}, {"seed": 2}, {"seed": 3}, owners=("ada", "grace", "alan"))
    assert drain_reason(line) == "3 different jobs crashed here in a row"
    assert runtime.generator is not None
    assert runtime.generator.pid is None, "no clip was needed to tell"


def test_a_step_that_is_stopped_meanwhile_says_nothing_of_the_worker(line: Line, context_of: MakeRuntime) -> None:
    def stop() -> None:
        raise StoppedError("cancelled")

    runtime = context_of(**BROKEN)
    crash_jobs(runtime, line, {"seed": 1}, {"seed": 2})
    crash(runtime, line, line.bring_to(Stage.GENERATE, seed=3)[2], stop)
    assert drain_reason(line) is None
    assert len(runtime.crashes) == 3, "the next one that crashes is looked at again"


@pytest.mark.parametrize(
    ("causes", "groups"),
    [
        (["a", "b", "c"], 3),
        (["a", "a", "a"], 1),
        (["ax", "bx", "cy"], 2),
        (["ax", "by", "xy"], 1),
        (["a1", "b2", "c3", "a4"], 3),
        (["", "", ""], 3),
    ],
)
def test_jobs_that_share_a_possible_cause_count_as_one(causes: list[str], groups: int) -> None:
    streak = CrashStreak()
    for number, letters in enumerate(causes):
        streak.add(f"job {number}", frozenset(letters))
    assert streak.independent == groups


@pytest.mark.parametrize("name", ["svd-xt", "wan2.1-flf2v-14b-720p", "wan2.1-v2v-1.3b"])
def test_a_trial_clip_gives_each_preset_the_inputs_that_it_needs(name: str, tmp_path: Path) -> None:
    from tasks.worker import trial_clip  # noqa: PLC0415 - it loads an encoder

    preset = all_presets()[name]
    spec = trial_clip._spec(preset, None)
    frames = tmp_path / "frames.rgb"
    frames.write_bytes(bytes(spec.num_frames * spec.width * spec.height * 3))
    given = trial_clip._blank_inputs(preset, spec, frames, go_on)
    assert set(preset.required_inputs) <= set(given)
    assert all(Path(path).stat().st_size for path in given.values())
    assert preset.frames.allows(spec.num_frames)
