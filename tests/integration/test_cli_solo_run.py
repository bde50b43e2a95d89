"""`vgen run` as a process: it works off, resumes, stops, follows and takes over. The generator makes no picture."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import IO, Any

import pytest

from cli.batches.status import status_view
from db.session import Database
from pipeline.errors import NotFoundError, ServiceUnavailableError
from pipeline.settings import load_settings
from tests.cli_process import LIMIT_S, started, until, vgen

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.5")


def _prompts(folder: Path, name: str, *lines: str) -> Path:
    file = folder / f"{name}.txt"
    file.write_text("#: preset = idle\n" + "".join(f"{line}\n" for line in lines), "utf-8")
    return file


def _json(*arguments: object) -> Any:
    ended = vgen(*arguments, "--json")
    return json.loads(ended.stdout) if ended.stdout else None


def _generating() -> bool:
    """Asked of the rows in this process: starting `vgen status` may take longer than the clip."""
    path = load_settings().home / "vgen.sqlite3"
    if not path.exists():
        return False
    database = Database(f"sqlite:///{path}")
    try:
        return any(step.stage == "generate" for step in status_view(database, load_settings(), "latest").running)
    except (NotFoundError, ServiceUnavailableError):  # no tables or no batch yet
        return False
    finally:
        database.close()


def _read_until(stream: IO[str] | None, text: str) -> None:
    assert stream is not None
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"{text!r} was not said")


def _clips(batch: str = "latest") -> list[Path]:
    return [Path(line.split("\t")[4]) for line in vgen("results", batch).stdout.splitlines()[1:]]


def test_run_makes_every_clip_and_running_it_again_is_no_error(tmp_path: Path) -> None:
    file = _prompts(tmp_path, "prompts", "a red fox", "a blue boat --seeds 1-2")

    first, second = vgen("run", file), vgen("run", file)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert len(_json("list")["batches"]) == 1
    clips = _clips()
    assert len(set(clips)) == 3
    assert all(clip.stat().st_size > 0 for clip in clips)
    for shown in (first, second):  # by readable names, which are links
        rows = [line.split("\t") for line in shown.stdout.splitlines() if "\tsucceeded\t" in line]
        assert {Path(row[2]).resolve() for row in rows} == {clip.resolve() for clip in clips}
    assert "random" in first.stdout
    assert "Traceback" not in first.stderr


@pytest.mark.usefixtures("slow")
def test_ctrl_c_stops_with_130_and_the_next_run_goes_on(tmp_path: Path) -> None:
    # Given a run that generates
    file = _prompts(tmp_path, "prompts", "a red fox", "a blue boat")
    with started("run", file) as process:
        until(_generating)

        # When it is interrupted
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130, said
    assert "`vgen run` resumes the work" in said

    # Then nothing is held by a worker that is gone, and the next run finishes
    assert _json("status")["batch"]["finished"] is False
    ended = vgen("run")
    assert ended.returncode == 0, ended.stderr
    assert len(_clips()) == 2


@pytest.mark.usefixtures("slow")
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    file = _prompts(tmp_path, "prompts", "a red fox --num_inference_steps 200")
    with started("run", file) as process:
        until(_generating)
        process.send_signal(signal.SIGINT)
        _read_until(process.stderr, "again to stop at once")
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=LIMIT_S) == 130


@pytest.mark.usefixtures("slow")
def test_a_second_run_on_one_home_stores_its_file_and_follows(tmp_path: Path) -> None:
    first_file = _prompts(tmp_path, "fox", "a fox --num-inference-steps 20")  # at work until the second has begun
    second_file = _prompts(tmp_path, "boat", "a boat")
    with started("run", first_file) as first:
        until(_generating)

        second = vgen("run", second_file)

        assert second.returncode == 0, second.stderr
        assert "another vgen works" in second.stderr
        _, said = first.communicate(timeout=LIMIT_S)
        assert first.returncode == 0, said
    assert [batch["exit_code"] for batch in _json("list")["batches"]] == [0, 0]


@pytest.mark.usefixtures("slow")
def test_a_second_run_takes_over_when_the_first_is_killed(tmp_path: Path) -> None:
    # Given two runs on one home, one of them working
    first_file = _prompts(tmp_path, "fox", "a fox --num-inference-steps 20")
    second_file = _prompts(tmp_path, "boat", "a boat")
    with started("run", first_file) as first:
        until(_generating)
        with started("run", second_file) as second:
            _read_until(second.stderr, "another vgen works")

            # When that one is killed
            first.kill()
            first.wait(timeout=LIMIT_S)
            _, said = second.communicate(timeout=LIMIT_S)

            # Then the other works off both files
            assert second.returncode == 0, said
    assert "this one continues the work" in said
    assert [batch["exit_code"] for batch in _json("list")["batches"]] == [0, 0]
    assert all(len(_clips(batch["id"])) == 1 for batch in _json("list")["batches"])


def test_a_job_for_a_gpu_that_is_not_here_ends_the_run_and_is_named(tmp_path: Path) -> None:
    file = _prompts(tmp_path, "prompts", "a red fox", "a blue boat --gpu h200")

    ended = vgen("run", file)

    assert ended.returncode == 3, ended.stderr
    assert "h200" in ended.stderr
    assert _json("status")["batch"]["counts"]["succeeded"] == 1
