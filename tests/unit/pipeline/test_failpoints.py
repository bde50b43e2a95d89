"""Failpoints: what an entry says, and that a process does it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import failpoints
from pipeline.errors import CrashError, SettingsError
from tests.conftest import REPOSITORY


def run(plan: str, code: str) -> subprocess.CompletedProcess[str]:
    """A process of its own with this plan."""
    return subprocess.run(
        [sys.executable, "-c", f"from pipeline.failpoints import hit\n{code}"],
        env={**os.environ, "VGEN_FAILPOINTS": plan},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        start_new_session=True,
    )


def test_an_entry_is_read_whole() -> None:
    (found,) = failpoints.parse(" after_claim:generate=raise:CrashError@3%0.5/7!/tmp/x y ;")["after_claim"]

    assert (found.what, found.action, found.argument) == ("generate", "raise", "CrashError")
    assert (found.nth, found.chance, found.seed, found.file) == (3, 0.5, 7, "/tmp/x y")


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("no_such_point=kill", "'no_such_point' is not a failpoint; use one of: after_claim"),
        ("after_claim=explode", "'explode' is not an action; use one of: enospc"),
        ("after_claim", "'after_claim' is not POINT"),
        ("after_claim=sleep", "sleep takes a number"),
        ("after_claim=exit:soon", "exit takes a number"),
        ("after_claim=raise:NoSuchError", "there is no such exception"),
        ("after_claim=raise:os.path", "there is no such exception"),
        ("after_claim=kill%1.2.3", "chances are 0 to 1"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(plan: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        failpoints.parse(plan)


def test_a_command_with_a_wrong_plan_ends_with_2_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", "config"],
        env={**os.environ, "VGEN_FAILPOINTS": "nowhere=kill"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "'nowhere' is not a failpoint" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_happens_without_a_plan() -> None:
    failpoints.hit("after_claim", "generate")


def test_it_acts_at_the_named_stage_and_time_only() -> None:
    code = "hit('after_claim', 'encode')\nfor n in range(3): print(n, flush=True); hit('after_claim', 'generate')"
    done = run("after_claim:generate=kill@2", code)

    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "0\n1\n")


def test_the_other_actions() -> None:
    assert run("after_work=exit:7", "hit('after_work')").returncode == 7
    assert run("after_work=killgroup", "hit('after_work')").returncode == -signal.SIGKILL
    assert "No space left" in run("upload=enospc", "hit('upload')").stderr
    raised = run("upload=raise:kombu.exceptions.OperationalError", "hit('upload')").stderr
    assert "kombu.exceptions.OperationalError: failpoint upload" in raised


def test_errors_of_the_pipeline_can_be_raised() -> None:
    (found,) = failpoints.parse("before_work=raise:CrashError")["before_work"]
    with pytest.raises(CrashError, match="failpoint before_work"):
        found.reached("generate")


def test_chances_are_those_of_the_seed() -> None:
    code = "print([n for n in range(50) if not _survives()])"
    code = f"def _survives():\n  try: hit('upload')\n  except RuntimeError: return False\n  return True\n{code}"
    first, again, other = (run(f"upload=raise%0.3/{seed}", code).stdout for seed in (1, 1, 2))

    assert first == again != other
    assert 5 <= len(first.split(",")) <= 25


def test_one_process_of_all_acts_when_they_share_a_file(tmp_path: Path) -> None:
    plan = f"upload=exit:9!{tmp_path / 'once'}"

    assert [run(plan, "hit('upload')").returncode for _ in range(3)] == [9, 0, 0]


def test_a_file_of_entries_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    code = f"""
import pathlib
path = pathlib.Path({str(path)!r})
hit('upload')
path.write_text('upload=exit:3')
hit('after_work')
hit('upload')
"""

    assert run(f"@{path}", code).returncode == 3


def test_every_point_is_reached_somewhere_and_no_other() -> None:
    named = set()
    for folder in ("pipeline", "db", "tasks", "service", "server", "cli"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            named |= set(re.findall(r"failpoints\.hit\(\s*\"(\w+)\"", path.read_text("utf-8")))

    assert named == set(failpoints.POINTS)
