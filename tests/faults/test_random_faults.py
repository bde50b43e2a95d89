"""Twelve seconds of the storm; `make faults SECONDS=1800 SEED=1` is the long form."""

from __future__ import annotations

import pytest

from tests.faults import random_faults, session_clients
from tests.faults.fault_cluster import World

SEED = 11


@pytest.mark.timeout(360)
def test_a_short_storm_loses_nothing_and_doubles_nothing(world: World) -> None:
    world.serve(1, session_clients.CONFIG)
    outcome = random_faults.run(world, seconds=12, seed=SEED, between_s=(0.4, 1.4), open_jobs=4, clients=2)

    assert outcome.sound, "\n".join(outcome.lines())
    assert sum(outcome.faults.values()) >= 5
    assert outcome.report.jobs["succeeded"] > 0
    assert outcome.over_http.answered
