"""A submit that is killed, and repeated: the whole file or nothing of it is stored, and never twice."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from tests.cluster import VGEN
from tests.faults.fault_cluster import World

LINES = 1000


@pytest.mark.slow_faults
def test_a_submit_that_is_killed_anywhere_stores_all_or_nothing(world: World, tmp_path: Path) -> None:
    # Given a file that takes a while to store, on hosts that have none of its GPU type
    path = tmp_path / "many.txt"
    path.write_text("".join(f"line {number}\n" for number in range(LINES)))
    command = [*VGEN, "submit", "--preset", "idle", "--gpu", "no-such-gpu", str(path)]
    env = {**world.hosts["a"].env, "VGEN_FAILPOINTS": ""}
    dice = Random(3)
    mine = "SELECT count(*) FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE b.name = 'many'"

    started = time.monotonic()
    whole = subprocess.run([*command, "--dry-run"], env=env, capture_output=True, check=False, timeout=100)
    assert whole.returncode == 0, whole.stderr
    takes_s = time.monotonic() - started
    for _ in range(4):
        submitting = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0.5, 1.5) * takes_s)
        submitting.kill()
        submitting.wait(10)
        assert world.one(mine) in (0, LINES)

    for _ in range(2):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
    assert world.one(mine) == LINES
    (batch_id,) = world.rows("SELECT id FROM batches WHERE name = 'many'")[0]
    cancelled = subprocess.run([*VGEN, "cancel", batch_id], env=env, capture_output=True, check=False, timeout=100)
    assert cancelled.returncode == 0, cancelled.stderr
