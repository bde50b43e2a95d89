"""One cluster of two hosts for all fault tests of a process, whole again before each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import invariant_check
from tests.faults.fault_cluster import World, running_world


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow_faults: run by `make faults`, not by `make test`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow_faults" in str(config.option.markexpr):
        return
    slow = [item for item in items if item.get_closest_marker("slow_faults")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="package")
def _package_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Ends with the last fault test: two idle hosts still take a part of the CPU from the tests that follow."""
    with pytest.MonkeyPatch.context() as patch:
        # Made before any test's own environment is: the generator of the oracle must not sleep either.
        patch.delenv("VGEN_IDLE_STEP_S", raising=False)
        with running_world(tmp_path_factory.mktemp("faults")) as world:
            world.start(world.host("a"), world.host("b"))
            yield world


@pytest.fixture
def world(_package_world: World) -> Iterator[World]:
    """Two hosts, ``a`` and ``b``, at work; healed and complete. What a test submits is judged when it has ended."""
    world = _package_world
    world.heal()
    world.make_whole()
    before = {row[0] for row in world.rows("SELECT id FROM batches")}
    yield world
    world.heal()
    batches = [row[0] for row in world.rows("SELECT id FROM batches") if row[0] not in before]
    if batches:
        world.wait_ended(*batches)
        invariant_check.assert_sound(world.database, world.store, batches)
