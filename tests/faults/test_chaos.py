"""`vgen chaos` breaks this host's workers only when told to, and reports what came of it."""

from __future__ import annotations

import subprocess

import pytest

from service.views.operations import ChaosView
from tests.cluster import VGEN
from tests.faults.fault_cluster import World


def chaos(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**world.hosts["a"].env, "VGEN_FAILPOINTS": ""}
    return subprocess.run(
        [*VGEN, "chaos", *arguments], env=env, capture_output=True, text=True, check=False, timeout=200
    )


def test_without_the_word_nothing_is_broken(world: World) -> None:
    before = sorted(pid for host in world.hosts.values() for pid in host.parents())

    done = chaos(world, "--seconds", "1")

    assert done.returncode == 2
    assert "--yes-break-things" in done.stderr
    assert sorted(pid for host in world.hosts.values() for pid in host.parents()) == before


@pytest.mark.timeout(300)
def test_workers_are_broken_and_the_batch_ends_all_the_same(world: World) -> None:
    before = sorted(pid for host in world.hosts.values() for pid in host.parents())

    few = ("--seconds", "5", "--seed", "4", "--jobs", "6", "--preset", "idle")
    done = chaos(world, "--yes-break-things", *few, "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    told = ChaosView.model_validate_json(done.stdout)
    assert (told.seed, told.lost, told.published_twice, told.jobs) == (4, 0, 0, {"succeeded": 6})
    assert sum(told.faults.values()) >= 1
    assert sorted(pid for host in world.hosts.values() for pid in host.parents()) != before
