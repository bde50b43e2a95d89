"""Which worker gets which preset: a table of situations, and what holds in every situation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy.placement import HELP_S, LINGER_S, Demand, GpuWorker, QueueLoad, assign

AFFINITY_S = 600.0
KIND = "h200"


def wants(
    preset: str, waiting: int = 50, *, priority: int = 0, waited_s: float = 1.0, memory: int | None = None
) -> Demand:
    return Demand(preset, frozenset({KIND}), waiting, priority, waited_s, memory)


def worker(
    name: str,
    preset: str | None = None,
    *,
    ready: bool = True,
    held_s: float = 60.0,
    busy: bool = False,
    memory: int | None = None,
    failed: frozenset[str] = frozenset(),
    kind: str = KIND,
) -> GpuWorker:
    return GpuWorker(name, kind, 1, memory, preset, ready and preset is not None, held_s, busy, failed)


def decide(
    workers: list[GpuWorker], *demands: Demand, states: dict[str, QueueLoad] | None = None
) -> dict[str, str | None]:
    known = {(KIND, preset): state for preset, state in (states or {}).items()}
    idle = {(w.gpu_type, w.preset): QueueLoad(idle_s=w.held_s) for w in workers if w.preset is not None}
    return assign(workers, demands, {**idle, **known}, affinity_s=AFFINITY_S)


def working(priority: int = 0, in_flight: int = 2) -> QueueLoad:
    return QueueLoad(in_flight, priority, 0.0, 60.0)


def test_nothing_is_loaded_where_nothing_waits() -> None:
    assert decide([worker("a"), worker("b", "x")]) == {}


def test_two_presets_get_a_worker_each() -> None:
    assert decide([worker("a"), worker("b")], wants("x"), wants("y")) == {"a": "x", "b": "y"}


def test_the_preset_with_the_most_clips_a_worker_gets_the_next_worker() -> None:
    moves = decide([worker("a"), worker("b"), worker("c")], wants("x", 60), wants("y", 25))

    assert sorted(moves.values(), key=str) == ["x", "x", "y"]


def test_priority_goes_before_number() -> None:
    assert decide([worker("a")], wants("x", 60), wants("y", 1, priority=1)) == {"a": "y"}


def test_what_the_workers_of_a_preset_can_take_needs_no_further_worker() -> None:
    assert decide([worker("a", "x"), worker("b")], wants("x", 2)) == {}
    assert decide([worker("a", "x", ready=False), worker("b")], wants("x", 2)) == {}
    assert decide([worker("a", "x"), worker("b")], wants("x", 3)) == {"b": "x"}


def test_a_worker_without_work_joins_a_long_line() -> None:
    both = [worker("a", "x", busy=True), worker("b")]

    assert decide(both, states={"x": working(in_flight=2)}) == {"b": "x"}
    assert decide(both, states={"x": QueueLoad(2, 0, 0.0, None)}) == {"b": "x"}
    assert decide(both, states={"x": QueueLoad(2, 0, 0.0, HELP_S / 2)}) == {}
    assert decide(both, states={"x": working(in_flight=1)}) == {}
    assert decide([both[0], worker("b", failed=frozenset({"x"}))], states={"x": working()}) == {}
    assert decide([both[0], worker("b", kind="l4")], states={"x": working()}) == {}
    assert decide([both[0], worker("b", "y", busy=True)], states={"x": working(), "y": working(in_flight=1)}) == {}


def test_a_worker_stays_with_a_preset_that_has_work() -> None:
    busy = worker("a", "x", busy=True, held_s=1e6)
    for state in (working(), working(in_flight=1)):
        assert decide([busy], wants("y"), states={"x": state}) == {}
    assert decide([worker("a", "x", held_s=1e6)], wants("x"), wants("y")) == {}


def test_a_worker_leaves_a_preset_that_has_been_idle_for_a_moment() -> None:
    assert decide([worker("a", "x")], wants("y"), states={"x": QueueLoad(idle_s=LINGER_S / 2)}) == {}
    assert decide([worker("a", "x")], wants("y"), states={"x": QueueLoad(idle_s=LINGER_S)}) == {"a": "y"}


def test_the_last_clips_of_a_preset_need_no_more_workers_than_clips() -> None:
    pair = [worker("a", "x", busy=True), worker("b", "x")]

    assert decide(pair, wants("y"), states={"x": working(in_flight=1)}) == {"b": "y"}
    assert decide(pair, wants("y"), states={"x": working(in_flight=2)}) == {}


def test_a_higher_priority_takes_a_worker_at_once_the_idler_one_of_two() -> None:
    pair = [worker("a", "x", busy=True), worker("b", "x")]

    assert decide(pair, wants("x"), wants("y", 1, priority=9), states={"x": working()}) == {"b": "y"}
    assert decide(pair, wants("x", priority=9), wants("y", priority=9), states={"x": working()}) == {}
    assert decide(pair, wants("y", priority=5), states={"x": working(priority=9)}) == {}


def test_a_preset_that_waited_too_long_gets_a_worker_that_was_held_too_long() -> None:
    def moves(waited_s: float, held_s: float, priority: int = 0) -> dict[str, str | None]:
        one = [worker("a", "x", busy=True, held_s=held_s)]
        return decide(one, wants("x"), wants("y", waited_s=waited_s, priority=priority), states={"x": working()})

    assert moves(AFFINITY_S, AFFINITY_S) == {"a": "y"}
    assert moves(AFFINITY_S - 1, AFFINITY_S) == {}
    assert moves(AFFINITY_S, AFFINITY_S - 1) == {}
    assert moves(AFFINITY_S, AFFINITY_S, priority=-1) == {}


def test_long_lines_share_the_workers_evenly_in_the_end() -> None:
    workers = [worker(name, "x", busy=True, held_s=AFFINITY_S) for name in "abcd"]
    states = {"x": working(in_flight=8), "y": working()}
    long = [wants("x", waited_s=AFFINITY_S), wants("y", waited_s=AFFINITY_S)]

    assert decide(workers, *long, states=states) == {"a": "y"}
    workers[0] = worker("a", "y", busy=True, held_s=AFFINITY_S)
    assert decide(workers, *long, states=states) == {"b": "y"}
    workers[1] = worker("b", "y", busy=True, held_s=AFFINITY_S)
    assert decide(workers, *long, states=states) == {}


def test_a_worker_that_loads_is_left_to_it() -> None:
    assert decide([worker("a", "x", ready=False)], wants("x"), wants("y", priority=9)) == {}


def test_only_a_gpu_that_the_preset_fits_is_chosen() -> None:
    assert decide([worker("a", memory=10), worker("b", memory=80)], wants("x", 1, memory=40)) == {"b": "x"}
    assert decide([worker("a", memory=10), worker("b", kind="t4")], wants("x", memory=40)) == {}


def test_who_failed_to_load_a_preset_leaves_it_to_another() -> None:
    unable = worker("a", "x", failed=frozenset({"x"}))

    assert decide([unable, worker("b")], wants("x")) == {"a": None, "b": "x"}


def test_when_all_failed_one_keeps_the_preset_so_that_the_jobs_hear_of_it() -> None:
    unable = [worker("a", "x", failed=frozenset({"x"})), worker("b", failed=frozenset({"x"}))]

    assert decide(unable, wants("x", 2)) == {}
    assert decide(unable, states={"x": working()}) == {}
    assert decide(unable) == {"a": None}


def test_who_gave_up_a_preset_and_is_the_last_to_try_it_keeps_it() -> None:
    workers = [worker("a"), worker("b", "x", ready=False, kind="t4", failed=frozenset({"x"}))]
    wide, narrow = wants("x", 1), Demand("x", frozenset({"t4"}), 1, 0, 0.0)
    wide = replace(wide, types=frozenset({KIND, "t4"}))

    assert decide(workers, wide, narrow) == {"a": "x"}


_PRESETS = st.sampled_from(["x", "y", "z"])
_WORKERS = st.lists(
    st.builds(
        lambda preset, ready, held_s, busy, kind, failed: worker(
            "", preset, ready=ready, held_s=held_s, busy=busy, kind=kind, failed=failed
        ),
        st.none() | _PRESETS,
        st.booleans(),
        st.sampled_from([0.0, 10.0, 1000.0]),
        st.booleans(),
        st.sampled_from([KIND, "t4"]),
        st.frozensets(_PRESETS),
    ),
    max_size=5,
)
_DEMANDS = st.lists(
    st.builds(
        Demand,
        _PRESETS,
        st.frozensets(st.sampled_from([KIND, "t4"]), min_size=1),
        st.integers(1, 9),
        st.integers(0, 2),
        st.sampled_from([0.0, 1000.0]),
    ),
    max_size=4,
    unique_by=lambda demand: (demand.preset, demand.types),
)


@given(_WORKERS, _DEMANDS, st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_whatever_the_situation(workers: list[GpuWorker], demands: list[Demand], flying: list[int]) -> None:
    named = [
        GpuWorker(str(n), w.gpu_type, 1, None, w.preset, w.ready, w.held_s, w.busy, w.failed)
        for n, w in enumerate(workers)
    ]
    keys = [(kind, preset) for kind in (KIND, "t4") for preset in "xyz"]
    states = {
        key: QueueLoad(count, 0 if count else None, 0.0 if count else 10.0)
        for key, count in zip(keys, flying, strict=True)
    }

    moves = assign(named, demands, states, affinity_s=AFFINITY_S)

    by_name = {w.name: w for w in named}
    for name, preset in moves.items():
        moved = by_name[name]
        assert preset != moved.preset
        # A worker that is loading is never moved, but from what it cannot load
        assert moved.preset is None or moved.ready or moved.preset in moved.failed
        wanted = any(d.preset == preset and moved.gpu_type in d.types for d in demands)
        assert preset is None or wanted or states[moved.gpu_type, preset].in_flight > 1
    # Whoever has no preset is idle only where everything that it could do is in hands already
    for idle in named:
        if idle.preset is None and idle.name not in moves:
            possible = [d for d in demands if idle.gpu_type in d.types and d.preset not in idle.failed]
            for demand in possible:
                serving = [
                    w for w in named if moves.get(w.name, w.preset) == demand.preset and w.gpu_type in demand.types
                ]
                assert serving
