"""Explains why a step does not run: a pure function of its rows, its batch and the workers.

Everything that shows a reason, on the command line and over HTTP, has it from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from db.reading.estimates import Need, lacking
from pipeline.policy.routes import ALL_QUEUES, GPU_QUEUES, IO_QUEUE, is_encode_queue, preset_queue, preset_slug, route
from pipeline.policy.routes import split_need as parts_of
from pipeline.presets import Preset
from pipeline.states import Stage

NOT_TAKEN_MS = 15_000
"""A message that idle workers have not taken for so long is reported."""


class Needs(StrEnum):
    """What has to happen before the step goes on."""

    PERSON = "person"
    SERVICE = "service"
    WORKER = "worker"
    NOTHING = "nothing"


class Code(StrEnum):
    """The reasons, by the names that JSON has for them."""

    HELD = "held"
    ALL_PAUSED = "everything_paused"
    BATCH_PAUSED = "batch_paused"
    QUEUE_PAUSED = "queue_paused"
    OVER_BUDGET = "over_budget"
    NOBODY_AT_WORK = "nobody_at_work"
    NO_WORKER = "no_worker"
    NO_DISPATCHER = "no_dispatcher"
    BROKER_AWAY = "broker_away"
    STORE_AWAY = "store_away"
    LANGUAGE_MODEL_AWAY = "language_model_away"
    CLASSIFIER_AWAY = "classifier_away"
    DISK_FULL = "disk_full"
    HANDOFF_FULL = "handoff_full"
    MODEL_MISSING = "model_missing"
    MODEL_UNUSABLE = "model_unusable"
    WORKER_LOST = "worker_lost"
    BACKOFF = "backoff"
    RESERVED = "reserved_for_sessions"
    LOADING = "loading"
    IN_TURN = "in_turn"
    SENT = "sent"
    NOT_TAKEN = "not_taken"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a step waits, and the command that mends it where one does."""

    code: Code
    text: str
    needs: Needs
    mend: str | None = None
    until: int | None = None
    """The time (the database's milliseconds) before which it is not tried again."""
    since: int | None = None
    """The time since which it is so, where that is known."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause by a person; who and when are unknown where the history was removed."""

    by: str | None = None
    at: int | None = None

    def __str__(self) -> str:
        return f" by {self.by}" if self.by else ""


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker that was seen lately."""

    name: str
    queues: Sequence[str]
    gpu_type: str | None = None
    memory_bytes: int | None = None
    assigned_preset: str | None = None
    assigned_since: int | None = None
    loaded: str | None = None
    draining: bool = False
    dispatches: bool = False
    reserved_for: str | None = None
    """The batch of the session that it is reserved for."""
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The code and the message of each preset that it could not load."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What holds for all batches at one instant."""

    now: int
    solo: bool
    presets: Mapping[str, Preset]
    workers: Sequence[LiveWorker] = ()
    paused: Mapping[str, Pause] = field(default_factory=dict)
    """The names that were paused; ``*`` is everything."""
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Steps that are dispatched or run, by queue."""
    running: Mapping[str, int] = field(default_factory=dict)
    """Those of them that run."""
    broker_away_since: int | None = None

    @property
    def at_work(self) -> list[LiveWorker]:
        return [worker for worker in self.workers if not worker.draining]

    def pause_of(self, queue: str) -> tuple[str, Pause] | None:
        """Return the pause over a queue; the same rule as ``pauses.is_paused``."""
        return next(
            ((name, pause) for name, pause in self.paused.items() if name == queue or queue.startswith(f"{name}.")),
            None,
        )


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What of a batch decides whether its steps go on."""

    id: str
    paused: Pause | None = None
    over_budget: bool = False
    priced: frozenset[str] | None = None
    """The GPU types that have a price; None where the batch has no limit on cost."""


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A step, or steps alike, that are waiting or dispatched."""

    stage: Stage
    need: str = ""
    queue: str | None = None
    """The queue that it was dispatched to; None while it waits."""
    dispatched_at: int | None = None
    not_before: int = 0
    error_code: str | None = None
    """The error of the last attempt, where that one failed."""
    error: str | None = None
    errors: int = 0


def held(batch_id: str, text: str = "") -> Reason:
    """The reason of a job that the screen stage holds."""
    why = f": {text}" if text else ""
    return Reason(
        Code.HELD, f"it is held for a person's word{why}", Needs.PERSON, f"vgen approve {batch_id} (or vgen reject)"
    )


def explain(step: OpenStep, batch: BatchFacts, now: Situation) -> Reason:
    """Return the reason why a step that waits or was dispatched is not at work: the first that holds."""
    return (
        _stopped(step, batch, now)
        or _nobody(now)
        or _queue_paused(step, batch, now)
        or _without_worker(step, batch, now)
        or _broker_away(now)
        or _after_failure(step, now)
        or _on_its_way(step, batch, now)
    )


def _stopped(step: OpenStep, batch: BatchFacts, now: Situation) -> Reason | None:
    if (pause := now.paused.get(ALL_QUEUES)) is not None:
        return Reason(
            Code.ALL_PAUSED, f"everything was paused{pause}", Needs.PERSON, "vgen resume --all", since=pause.at
        )
    if batch.paused is not None:
        return Reason(
            Code.BATCH_PAUSED,
            f"the batch was paused{batch.paused}",
            Needs.PERSON,
            f"vgen resume {batch.id}",
            since=batch.paused.at,
        )
    if batch.over_budget and step.stage is Stage.GENERATE:
        mend = f"vgen budget {batch.id} --max-gpu-hours N (or --max-cost N)"
        return Reason(Code.OVER_BUDGET, "the batch's budget is used up", Needs.PERSON, mend)
    return None


def _nobody(now: Situation) -> Reason | None:
    if now.at_work:
        return None
    if now.solo:
        return Reason(Code.NOBODY_AT_WORK, "no vgen process works in this home", Needs.WORKER, "vgen run")
    drain = f": all {len(now.workers)} drain" if now.workers else ""
    return Reason(Code.NOBODY_AT_WORK, f"no worker is running{drain}", Needs.WORKER, "vgen worker")


def _queue_paused(step: OpenStep, batch: BatchFacts, now: Situation) -> Reason | None:
    pauses = [now.pause_of(queue) for queue in _queues_of(step, batch, now)]
    if not pauses or any(pause is None for pause in pauses):
        return None
    name, pause = next(pause for pause in pauses if pause is not None)
    return Reason(
        Code.QUEUE_PAUSED,
        f"queue {name} was paused{pause}",
        Needs.PERSON,
        f"vgen resume --queue {name}",
        since=pause.at,
    )


def _queues_of(step: OpenStep, batch: BatchFacts, now: Situation) -> list[str]:
    """The queues that the step may go to, where somebody reads them."""
    if step.queue is not None:
        return [step.queue]
    if step.stage is Stage.GENERATE:
        slug = preset_slug(parts_of(step.need)[0])
        return sorted({preset_queue(worker.gpu_type or "", slug) for worker in _able(step, batch, now)})
    queue = route(step.stage)
    if queue is not None:
        return [queue]
    return sorted({name for worker in now.at_work for name in worker.queues if is_encode_queue(name)})


def _able(step: OpenStep, batch: BatchFacts, now: Situation) -> list[LiveWorker]:
    """The workers that may generate the step's clip."""
    return [
        worker
        for worker in now.at_work
        if worker.gpu_type is not None and _lacks(step, batch, now, {worker.gpu_type: worker.memory_bytes}) is None
    ]


def _lacks(step: OpenStep, batch: BatchFacts, now: Situation, live: Mapping[str, int | None]) -> str | None:
    preset, gpu = parts_of(step.need)
    return lacking(Need(preset, gpu), live, now.presets, batch.priced)


def _broker_away(now: Situation) -> Reason | None:
    if now.broker_away_since is None:
        return None
    text = "the broker is unreachable: no message can be sent; work resumes by itself when the broker is back"
    return Reason(Code.BROKER_AWAY, text, Needs.SERVICE, "vgen doctor", since=now.broker_away_since)


_CAUSES = {
    "temporarily_unavailable": (Code.STORE_AWAY, "the store is away", "vgen doctor"),
    "enhance_unavailable": (Code.LANGUAGE_MODEL_AWAY, "the language model is unreachable", "vgen doctor"),
    "classifier_unavailable": (Code.CLASSIFIER_AWAY, "the classifier cannot be used", "vgen doctor"),
    "disk_full": (Code.DISK_FULL, "a disk, or the store, is full", "vgen sweep (or make room)"),
}
"""What an error of the last attempt says of the world around the worker."""


def _after_failure(step: OpenStep, now: Situation) -> Reason | None:
    """The reason of a step that is tried again."""
    if step.queue is not None or (step.error_code is None and step.not_before <= now.now):
        return None
    code, error = step.error_code or "", step.error or ""
    if step.not_before <= now.now and code not in (*_CAUSES, "handoff_full", "worker_lost"):
        return None  # its rest is over: now it waits as every other step does
    until = step.not_before if step.not_before > now.now else None
    if code in _CAUSES:
        reason, text, mend = _CAUSES[code]
        return Reason(reason, f"{text}: {_brief(error)}", Needs.SERVICE, mend, until)
    if code == "handoff_full":
        text = "frames that wait for the encoder fill the hand-off folder: the step resumes when there is room"
        return Reason(Code.HANDOFF_FULL, text, Needs.NOTHING, until=until)
    if code == "worker_lost":
        return Reason(Code.WORKER_LOST, f"{_brief(error)}: it is tried again", Needs.NOTHING, until=until)
    text = (
        f"its last attempt failed, and it is tried again: {code}: {_brief(error)}" if code else "it rests for a while"
    )
    return Reason(Code.BACKOFF, text, Needs.NOTHING, until=until)


_LONGEST = 160


def _brief(error: str) -> str:
    line = " ".join(error.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


_WORK = {
    Stage.ENHANCE: "enhances prompts",
    Stage.SCREEN: "screens prompts",
    Stage.ENCODE: "encodes clips",
    Stage.SCORE: "scores clips",
    Stage.PUBLISH: "publishes clips",
}


def _without_worker(step: OpenStep, batch: BatchFacts, now: Situation) -> Reason | None:
    if step.stage is Stage.GENERATE:
        live = _live_types(now.at_work)
        lacking = _lacks(step, batch, now, live)
        if lacking is not None:
            return Reason(Code.NO_WORKER, f"no live worker can make it: it needs {lacking}", Needs.WORKER, _start(now))
        return _not_loadable(step, batch, now) or _reserved(step, batch, now)
    queues = _queues_of(step, batch, now)
    read = {queue for worker in now.at_work for queue in worker.queues}
    if read.intersection(queues):
        return None
    name = f" ({', '.join(queues)})" if queues else ""
    text = f"no live worker {_WORK[step.stage]}{name}"
    return Reason(Code.NO_WORKER, text, Needs.WORKER, _start(now))


def _start(now: Situation) -> str:
    return "vgen run" if now.solo else "vgen worker"


def _live_types(workers: Iterable[LiveWorker]) -> dict[str, int | None]:
    """GPU types with the largest memory of each, where it is known."""
    memory: dict[str, int | None] = {}
    for worker in workers:
        if worker.gpu_type is not None:
            sizes = [size for size in (memory.get(worker.gpu_type), worker.memory_bytes) if size is not None]
            memory[worker.gpu_type] = max(sizes, default=None)
    return memory


def _not_loadable(step: OpenStep, batch: BatchFacts, now: Situation) -> Reason | None:
    """The reason where every worker that might make the clip has failed to load its model."""
    preset = parts_of(step.need)[0]
    slug, able = preset_slug(preset), _able(step, batch, now)
    if not able or not all(slug in worker.failed for worker in able):
        return None
    code, error = able[0].failed[slug]
    missing = code == "model_missing"
    return Reason(
        Code.MODEL_MISSING if missing else Code.MODEL_UNUSABLE,
        f"no worker could load {preset}: {code}: {_brief(error)}",
        Needs.PERSON,
        f"vgen models {'pull' if missing else 'check'} {preset}",
    )


def _reserved(step: OpenStep, batch: BatchFacts, now: Situation) -> Reason | None:
    """The reason where every worker that might make the clip takes the segments of a session alone."""
    able = _able(step, batch, now)
    if step.queue is not None or not able or any(worker.reserved_for in (None, batch.id) for worker in able):
        return None
    text = "every GPU that may make it is reserved for a session: it goes on when one ends"
    return Reason(Code.RESERVED, text, Needs.NOTHING)


def _on_its_way(step: OpenStep, batch: BatchFacts, now: Situation) -> Reason:
    """The reason of a step that nothing stands against."""
    if step.queue is not None:
        return _dispatched(step, now)
    if not any(worker.dispatches for worker in now.at_work):
        mend = None if now.solo else "vgen dispatcher (or vgen worker with IO work)"
        return Reason(Code.NO_DISPATCHER, f"nothing is dispatched: no live worker reads {IO_QUEUE}", Needs.WORKER, mend)
    if step.stage is Stage.GENERATE:
        preset = parts_of(step.need)[0]
        slug = preset_slug(preset)
        able = _able(step, batch, now)
        loading = [worker for worker in able if worker.assigned_preset == slug and worker.loaded != slug]
        serving = [worker for worker in able if worker.loaded == slug == worker.assigned_preset]
        if loading and not serving:
            since = min((worker.assigned_since for worker in loading if worker.assigned_since), default=None)
            return Reason(Code.LOADING, f"loading the model of {preset}", Needs.NOTHING, since=since)
        ahead = sum(now.in_flight.get(queue, 0) for queue in _queues_of(step, batch, now))
        if ahead or serving:
            before = f": {ahead} of {preset} before it" if ahead else ""
            return Reason(Code.IN_TURN, f"it waits for its turn{before}", Needs.NOTHING)
        others = sum(count for queue, count in now.in_flight.items() if queue.startswith(GPU_QUEUES))
        before = f", and {others} of other presets are before it" if others else ""
        return Reason(Code.IN_TURN, f"it waits until a GPU takes {preset}{before}", Needs.NOTHING)
    return Reason(Code.IN_TURN, "it waits for its turn", Needs.NOTHING)


def _dispatched(step: OpenStep, now: Situation) -> Reason:
    queue = step.queue or ""
    if now.now - (step.dispatched_at or now.now) >= NOT_TAKEN_MS and not now.running.get(queue):
        text = f"it was sent to {queue}, and no worker has taken it"
        return Reason(Code.NOT_TAKEN, text, Needs.SERVICE, "vgen doctor", since=step.dispatched_at)
    return Reason(Code.SENT, f"it is next in {queue}", Needs.NOTHING, since=step.dispatched_at)
