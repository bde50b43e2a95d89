"""A solo run that is killed, interrupted or doubled: the next one goes on, and no clip is lost or made otherwise.

``VGEN_TEST_KILLS`` is the number of kills in a row (default 2), ``VGEN_TEST_SEED`` draws their moments (default 1).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.clips import batches
from db.models import Step
from db.session import Database
from pipeline.policy.retry import MAX_OTHER
from pipeline.settings import Settings, load_settings
from pipeline.states import JobState, Stage
from tests import forked_cli
from tests.forked_cli import ForkedVgen
from tests.line_helpers import (
    IDLE,
    LIMIT_S,
    assert_published_once,
    denoises,
    frames_by_job,
    home_of,
    job_states,
    left_in_handoff,
    processes_with,
    states,
    until,
    write_jobs,
)

# Read here: the tests' environment is cleared of VGEN_* before each of them.
KILLS = int(os.environ.get("VGEN_TEST_KILLS", "2"))
SEED = int(os.environ.get("VGEN_TEST_SEED", "1"))
TINY = {"preset": "tiny-wan", "num_frames": 5, "width": 64, "height": 48, "num_inference_steps": 4}
SLOW_STEP = {"VGEN_IDLE_STEP_S": "0.05"}
pytestmark = pytest.mark.timeout(120 + 60 * KILLS)


class _Runs:
    """`vgen run` over one home, each run a process (and group) of its own, ended with the test."""

    def __init__(self, home: Path, cache: Path) -> None:
        self._log = home.parent / f"{home.name}.log"
        self.env = {"VGEN_HOME": str(home), "VGEN_CACHE_DIR": str(cache)}
        self.settings: Settings = load_settings(home=home, cache_dir=cache)
        self._started: list[ForkedVgen] = []

    def start(self, *arguments: str | Path, **more: str) -> ForkedVgen:
        env = {**os.environ, **self.env, **more}
        process = ForkedVgen(
            ["run", *arguments], env=env, cwd=Path.cwd(), stdout=self._log, stderr=self._log, session=True
        )
        self._started.append(process)
        return process

    def to_the_end(self, *arguments: str | Path) -> int:
        return self.start(*arguments).wait(timeout=LIMIT_S)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    def log(self) -> str:
        return self._log.read_text("utf-8") if self._log.exists() else ""


@contextmanager
def _runs_in(home: Path, cache: Path) -> Iterator[_Runs]:
    runs = _Runs(home, cache)
    try:
        yield runs
    finally:
        runs.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[_Runs]:
    with _runs_in(tmp_path / "home", tmp_path / "cache") as found:
        yield found


def _only_batch(database: Database) -> str:
    (batch_id,) = _batches(database)
    return batch_id


def _batches(database: Database) -> list[str]:
    with database.reading() as session:
        return [batch.id for batch in batches.recent(session)]


def _lines() -> list[dict[str, Any]]:
    idle = [{"prompt": f"idle {number}", "seed": number, **IDLE, "num_inference_steps": 10} for number in range(4)]
    wan = [{"prompt": f"a kite {number}", "seed": 100 + number, **TINY} for number in range(3)]
    return [*idle[:2], *wan, *idle[2:]]


def test_killed_at_random_moments_the_line_ends_with_each_clip_once_and_the_same_frames(tmp_path: Path) -> None:
    prompts = write_jobs(tmp_path / "prompts.jsonl", _lines())
    undisturbed_home, home, cache = tmp_path / "undisturbed", tmp_path / "home", tmp_path / "cache"
    with _runs_in(undisturbed_home, cache) as runs, home_of(runs.settings):
        stored = forked_cli.run(["submit", prompts], env={**os.environ, **runs.env}, cwd=tmp_path, timeout=LIMIT_S)
        assert stored.returncode == 0, stored.stderr
    # A copy has the same job ids, which are part of each video file.
    shutil.copytree(undisturbed_home, home)
    with _runs_in(undisturbed_home, cache) as runs, home_of(runs.settings) as database:
        started = time.monotonic()
        assert runs.to_the_end(prompts) == 0, runs.log()
        usual_s = time.monotonic() - started
        expected = frames_by_job(runs.settings, database, _only_batch(database))

    moments = random.Random(SEED)
    with _runs_in(home, cache) as runs, home_of(runs.settings) as database:
        killed = 0
        for _ in range(KILLS):
            process = runs.start(prompts, **SLOW_STEP)
            try:
                process.wait(timeout=moments.uniform(0.1, 1.0) * usual_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        until(lambda: processes_with(str(runs.settings.home)) == [], lambda: "a generator outlived its line")
        assert runs.to_the_end(prompts) == 0, runs.log()

        batch_id = _only_batch(database)
        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * len(expected)
        assert_published_once(runs.settings, database, batch_id)
        assert frames_by_job(runs.settings, database, batch_id) == expected
        assert left_in_handoff(runs.settings) == []
        assert killed, "every run had ended before its kill"


def test_kills_before_the_first_step_are_not_charged_to_the_job(tmp_path: Path, runs: _Runs) -> None:
    prompts = write_jobs(tmp_path / "prompts.jsonl", [{"prompt": "idle", **IDLE}])
    with home_of(runs.settings) as database:
        for kills in range(MAX_OTHER):
            process = runs.start(prompts, VGEN_IDLE_STEP_S="1000")
            until(partial(_generate_claimed, database, kills + 1), runs.log)
            process.kill()
            process.wait()

        assert runs.to_the_end(prompts) == 0, runs.log()

        assert job_states(database, _only_batch(database)) == [JobState.SUCCEEDED]
        assert_published_once(runs.settings, database, _only_batch(database))


def _generate_claimed(database: Database, times: int) -> bool:
    """Whether the only job's generate step has been claimed so often."""
    with database.reading() as session:
        return session.scalars(select(Step.attempt).where(Step.stage == Stage.GENERATE)).one_or_none() == times


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_ends_with_130_and_the_next_one_goes_on(
    number: signal.Signals, tmp_path: Path, runs: _Runs
) -> None:
    lines = [{"prompt": f"idle {number}", **IDLE, "num_inference_steps": 40} for number in range(3)]
    prompts = write_jobs(tmp_path / "prompts.jsonl", lines)
    with home_of(runs.settings) as database:
        process = runs.start(prompts, VGEN_IDLE_STEP_S="0.2")
        until(lambda: bool(_batches(database)) and denoises(database, _only_batch(database)), runs.log)
        if number == signal.SIGHUP:  # as of a terminal that closes: to the whole group, from the shell and the kernel
            os.killpg(process.pid, number)
            time.sleep(0.3)
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(timeout=LIMIT_S) == 130
        assert "stopped; `vgen run` resumes the work" in runs.log()
        batch_id = _only_batch(database)
        assert states(database, batch_id)[JobState.SUCCEEDED] < 3
        assert processes_with(str(runs.settings.home)) == []

        assert runs.to_the_end() == 0

        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 3
        assert_published_once(runs.settings, database, batch_id)


def test_two_runs_on_one_home_both_end_well_and_share_the_work(tmp_path: Path, runs: _Runs) -> None:
    prompts = write_jobs(tmp_path / "prompts.jsonl", [{"prompt": f"idle {number}", **IDLE} for number in range(5)])
    with home_of(runs.settings) as database:
        both = [runs.start(prompts, **SLOW_STEP) for _ in range(2)]

        assert [process.wait(timeout=LIMIT_S) for process in both] == [0, 0], runs.log()

        batch_id = _only_batch(database)
        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 5
        assert_published_once(runs.settings, database, batch_id)


def test_when_the_working_run_is_killed_the_following_one_takes_over(tmp_path: Path, runs: _Runs) -> None:
    lines = [{"prompt": f"idle {number}", **IDLE, "num_inference_steps": 20} for number in range(3)]
    prompts = write_jobs(tmp_path / "prompts.jsonl", lines)
    with home_of(runs.settings) as database:
        first = runs.start(prompts, VGEN_IDLE_STEP_S="0.2")
        until(lambda: bool(_batches(database)) and denoises(database, _only_batch(database)), runs.log)
        second = runs.start(prompts)
        until(lambda: "following it" in runs.log())
        first.kill()

        assert second.wait(timeout=LIMIT_S) == 0, runs.log()

        batch_id = _only_batch(database)
        assert job_states(database, batch_id) == [JobState.SUCCEEDED] * 3
        assert_published_once(runs.settings, database, batch_id)


def test_a_finished_batch_run_again_makes_nothing_and_ends_as_before(tmp_path: Path, runs: _Runs) -> None:
    prompts = write_jobs(tmp_path / "prompts.jsonl", [{"prompt": "idle", **IDLE}])
    with home_of(runs.settings) as database:
        assert [runs.to_the_end(prompts), runs.to_the_end(prompts), runs.to_the_end()] == [0, 0, 0]
        assert states(database, _only_batch(database))[JobState.SUCCEEDED] == 1
