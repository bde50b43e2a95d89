"""Choose the preset of each GPU worker: a pure function of what waits and of who is alive.

Each preset has a queue of its own on each GPU type. A worker serves the queue of the preset that it holds, and changing
presets costs a load. So a worker is moved only where nothing is left for it to do for its preset, where something of a
higher priority waits elsewhere, or where another preset has waited too long beside it (``affinity_s``). A worker that
would idle helps where a queue is long. Presets are named by their ``preset_slug``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.policy.routes import GpuCapacity

LINGER_S = 2.0
"""A preset's queue must have been idle for so long before its worker is moved: its next job may be in screening."""

HELP_S = 10.0
"""A preset's queue must be so long for a worker without work to load that preset and join it."""

_Key = tuple[str, str]
"""GPU type and preset."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Clips of one preset that wait for a GPU and that may all run on the same types."""

    preset: str
    types: frozenset[str]
    """Live GPU types that they may run on now."""
    waiting: int
    """As far as it was counted: the order of large numbers decides nothing."""
    priority: int
    waited_s: float
    """Since the first of them was submitted."""
    memory_bytes: int | None = None
    """What the preset needs; None where it is not known."""


@dataclass(frozen=True, slots=True)
class GpuWorker:
    """A live GPU worker that is not draining."""

    name: str
    gpu_type: str
    slots: int = 1
    memory_bytes: int | None = None
    preset: str | None = None
    """The preset that it is assigned to."""
    ready: bool = False
    """True once it serves its preset's queue."""
    held_s: float = 0.0
    """The time since the preset was assigned."""
    busy: bool = False
    failed: frozenset[str] = frozenset()
    """The presets that it lately could not load."""

    @property
    def key(self) -> _Key:
        return self.gpu_type, self.preset or ""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What is dispatched to a preset's queue and not yet generated."""

    in_flight: int = 0
    priority: int | None = None
    """The highest of what is in flight."""
    idle_s: float = 0.0
    """Since its last clip was generated; 0 while one is."""
    seconds_each: float | None = None


@dataclass(slots=True)
class _Plan:
    """The assignment as it grows."""

    workers: dict[str, GpuWorker]
    demands: Sequence[Demand]
    states: Mapping[_Key, QueueLoad]
    affinity_s: float
    moves: dict[str, str | None] = field(default_factory=dict)

    def state(self, key: _Key) -> QueueLoad:
        return self.states.get(key, QueueLoad())

    def members(self, key: _Key) -> list[GpuWorker]:
        return [worker for worker in self.workers.values() if worker.preset is not None and worker.key == key]

    def serving(self, demand: Demand) -> list[GpuWorker]:
        return [w for w in self.workers.values() if w.preset == demand.preset and w.gpu_type in demand.types]

    def able(self, demand: Demand) -> list[GpuWorker]:
        """Who could hold the preset. Who failed to is left out, unless all did: then its jobs are to hear of it."""
        fitting = [
            worker
            for worker in self.workers.values()
            if worker.gpu_type in demand.types
            and (demand.memory_bytes or 0) <= (worker.memory_bytes or demand.memory_bytes or 0)
        ]
        return [worker for worker in fitting if demand.preset not in worker.failed] or fitting

    def beyond(self, demand: Demand) -> int:
        """Clips that wait although every worker of the preset has its hands full."""
        slots: dict[str, int] = {}
        for worker in self.serving(demand):
            slots[worker.gpu_type] = slots.get(worker.gpu_type, 0) + worker.slots
        room = 0
        for gpu_type, count in slots.items():
            state = self.state((gpu_type, demand.preset))
            room += max(0, GpuCapacity(count, state.in_flight, state.seconds_each).room)
        return demand.waiting - room

    def waiting_for(self, key: _Key) -> list[Demand]:
        return [demand for demand in self.demands if demand.preset == key[1] and key[0] in demand.types]

    def priority(self, key: _Key) -> int | None:
        """The highest of what waits for the preset or is in flight in its queue; None when there is nothing."""
        known = [demand.priority for demand in self.waiting_for(key)]
        flying = self.state(key).priority
        return max([*known, *([] if flying is None else [flying])], default=None)

    def free(self, worker: GpuWorker) -> bool:
        """Whether it may be moved at no cost to its preset's jobs."""
        if worker.preset is None:
            return True
        if not worker.ready or worker.busy or self.waiting_for(worker.key):
            return False
        others = sum(other.slots for other in self.members(worker.key) if other.name != worker.name)
        state = self.state(worker.key)
        return state.in_flight <= others and min(worker.held_s, state.idle_s if others == 0 else LINGER_S) >= LINGER_S

    def line_s(self, key: _Key) -> float:
        """How long the last of a preset's queue waits; unknown is long."""
        state, slots = self.state(key), sum(worker.slots for worker in self.members(key))
        waiting = state.in_flight - slots
        if waiting <= 0 or slots == 0:
            return 0.0
        return waiting / slots * (math.inf if state.seconds_each is None else state.seconds_each)

    def move(self, worker: GpuWorker, preset: str | None) -> None:
        self.moves[worker.name] = preset
        self.workers[worker.name] = replace(worker, preset=preset, ready=False, held_s=0.0)


def assign(
    workers: Iterable[GpuWorker], demands: Sequence[Demand], states: Mapping[_Key, QueueLoad], *, affinity_s: float
) -> dict[str, str | None]:
    """The workers whose preset changes, and the preset that each gets; None takes it away."""
    plan = _Plan({worker.name: worker for worker in sorted(workers, key=_name)}, demands, states, affinity_s)
    presets_now = {worker.name: worker.preset for worker in plan.workers.values()}
    _leave_failed_presets(plan)
    ordered = sorted(demands, key=lambda demand: (-demand.priority, -demand.waited_s, demand.preset))
    _employ_the_free(plan, ordered)
    for demand in ordered:
        if plan.beyond(demand) > 0:
            victim = _victim(plan, demand)
            if victim is not None:
                plan.move(victim, demand.preset)
    _help_out(plan)
    # One that gave up a preset may have got it back, for jobs that nobody else is left to try.
    return {name: preset for name, preset in plan.moves.items() if preset != presets_now[name]}


def _name(worker: GpuWorker) -> str:
    return worker.name


def _leave_failed_presets(plan: _Plan) -> None:
    """Who could not load its preset gives it up where somebody else may still try."""
    for worker in list(plan.workers.values()):
        if worker.preset is None or worker.preset not in worker.failed or worker.busy:
            continue
        waiting = plan.waiting_for(worker.key)
        idle = not waiting and not plan.state(worker.key).in_flight
        if idle or any(worker not in plan.able(demand) for demand in waiting):
            plan.move(worker, None)


def _employ_the_free(plan: _Plan, ordered: Sequence[Demand]) -> None:
    """Give free workers to what waits: priority first, then the most clips a worker."""
    while True:
        choices = []
        for demand in ordered:
            if plan.beyond(demand) <= 0:
                continue
            free = [worker for worker in plan.able(demand) if worker.preset != demand.preset and plan.free(worker)]
            if free:
                share = demand.waiting / (1 + len(plan.serving(demand)))
                choices.append((-demand.priority, -share, -demand.waited_s, demand.preset, demand, free))
        if not choices:
            return
        *_, demand, free = min(choices, key=lambda choice: choice[:4])
        plan.move(min(free, key=lambda worker: _reluctance(plan, demand, worker)), demand.preset)


def _help_out(plan: _Plan) -> None:
    """Let who has nothing to do join the longest line of its GPU type: what is dispatched there may be its too."""
    for worker in list(plan.workers.values()):
        if worker.name in plan.moves or not plan.free(worker):
            continue
        lines = [
            (plan.line_s(key), key[1])
            for key in plan.states
            if key[0] == worker.gpu_type and key[1] not in (worker.preset, *worker.failed) and _holds(plan, worker, key)
        ]
        if lines and max(lines)[0] >= HELP_S:
            plan.move(worker, max(lines)[1])


def _holds(plan: _Plan, worker: GpuWorker, key: _Key) -> bool:
    """Whether the worker has the memory of one that serves the preset."""
    return any((member.memory_bytes or 0) <= (worker.memory_bytes or 0) for member in plan.members(key))


def _reluctance(plan: _Plan, demand: Demand, worker: GpuWorker) -> tuple[bool, float, str]:
    """The order of preference: a worker without a preset first, then one of the GPU type that is known to be quick."""
    seconds = plan.state((worker.gpu_type, demand.preset)).seconds_each
    return worker.preset is not None, seconds if seconds is not None else 0.0, worker.name


def _victim(plan: _Plan, demand: Demand) -> GpuWorker | None:
    """A worker that may be taken from a preset that still has work; None where that is not justified."""
    victims = []
    for worker in plan.able(demand):
        theirs = plan.priority(worker.key)
        if worker.preset is None or worker.preset == demand.preset or not worker.ready or theirs is None:
            continue
        if demand.priority > theirs or (demand.priority == theirs and _too_long(plan, demand, worker)):
            # The least urgent preset, and of its workers one that is not in the middle of a clip.
            victims.append((theirs, -len(plan.members(worker.key)), worker.busy, worker.name, worker))
    return min(victims, key=lambda item: item[:4])[4] if victims else None


def _too_long(plan: _Plan, demand: Demand, worker: GpuWorker) -> bool:
    """Whether the preset has waited so long that it gets this worker, of equal priority: up to an even share."""
    mine, theirs = len(plan.serving(demand)), len(plan.members(worker.key))
    return min(demand.waited_s, worker.held_s) >= plan.affinity_s and (mine == 0 or theirs - mine > 1)
