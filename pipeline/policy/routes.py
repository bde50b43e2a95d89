"""Route a job's steps: queue names, and the choice of a GPU type by expected wait."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.names import GPU_TYPE_PATTERN, is_gpu_type
from pipeline.presets import Preset
from pipeline.spec import JobSpec
from pipeline.states import Stage

NO_MODEL = "none"
"""The model family of metrics that need no model."""
IO_QUEUE = "vgen.io"
CPU_QUEUE = "vgen.cpu"
ALL_QUEUES = "*"
"""The name of the row that stands for every queue."""
GPU_QUEUES = "vgen.gpu."
"""The beginning of the name of every queue that GPU workers read."""
_ENCODE_PREFIX = "vgen.encode."
_SLUG_CHARS = 60
"""With the prefix, and a GPU type of at most 41, a queue's name stays below the 120 that a row holds."""
_DIGEST_CHARS = 12
_GIB = 1024**3
_FAST_LINE_S = 10.0
"""More than one waiting job a slot is admitted while a line stays shorter than this."""
_MOST_WAITING = 64
"""Never more than so many steps wait a slot, however short they are."""


@dataclass(frozen=True, slots=True)
class ScorePart:
    """The part that one step of an evaluation run scores: clips of a batch's jobs ``first_seq`` to ``last_seq``, by one
    model family."""

    family: str
    first_seq: int
    last_seq: int


_QUEUE = re.compile(rf"vgen\.(io|cpu|gpu|encode|gpu\.{GPU_TYPE_PATTERN}(\.[A-Za-z0-9._-]+)?|encode\.[a-z0-9-]+)")


def queue_named(name: str) -> str:
    """Return the queue, or the queues (``vgen.gpu``), that people mean: a GPU type alone is its queue.

    Raises:
        ValueError: no queue can have the name.
    """
    if _QUEUE.fullmatch(name):
        return name
    if is_gpu_type(name):
        return gpu_queue(name)
    rule = "expected vgen.io, vgen.cpu, vgen.gpu, vgen.gpu.TYPE, vgen.encode, or a GPU type such as h200"
    raise ValueError(f"{name!r} is not a queue: {rule}")


def gpu_queue(gpu_type: str) -> str:
    return GPU_QUEUES + gpu_type


def preset_queue(gpu_type: str, slug: str) -> str:
    """The queue of those GPUs of a type that hold one preset; ``slug`` is the preset's ``preset_slug``."""
    return f"{GPU_QUEUES}{gpu_type}.{slug}"


def session_queue(gpu_type: str, session_id: str) -> str:
    """The queue of the one GPU worker of a type that is reserved for a session."""
    return preset_queue(gpu_type, f"session-{session_id}")


def preset_slug(preset: str) -> str:
    """A preset's name where it is short enough for a queue's name, else its beginning and a digest of all of it."""
    if len(preset) <= _SLUG_CHARS:
        return preset
    digest = hashlib.sha256(preset.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{preset[: _SLUG_CHARS - _DIGEST_CHARS - 1]}-{digest}"


def gpu_type_of(queue: str) -> str | None:
    """The GPU type that a queue belongs to; None when it is not a GPU queue.

    A GPU type contains no dot, a preset's name may: what comes after the first dot is the preset's slug.
    """
    return queue.removeprefix(GPU_QUEUES).partition(".")[0] if queue.startswith(GPU_QUEUES) else None


def preset_slug_of(queue: str) -> str | None:
    """The slug of the preset that a queue belongs to; None for any other queue."""
    if not queue.startswith(GPU_QUEUES):
        return None
    return queue.removeprefix(GPU_QUEUES).partition(".")[2] or None


def encode_queue(handoff_id: str) -> str:
    """The queue of those who can read a hand-off directory."""
    return _ENCODE_PREFIX + handoff_id


def encode_slots(cores: int, threads: int) -> int:
    """Return how many clips are encoded at once: those that fill the cores, and one that is checked or uploaded."""
    return max(1, cores // threads) + 1


def is_encode_queue(queue: str) -> bool:
    return queue.startswith(_ENCODE_PREFIX)


def need_of(spec: JobSpec) -> str:
    """What a clip needs of a GPU, as one text: its preset, and the types it keeps to."""
    return f"{spec.preset} {','.join(spec.gpu)}".rstrip()


def split_need(need: str) -> tuple[str, tuple[str, ...]]:
    """Preset and GPU types of ``need_of``."""
    preset, _, types = need.partition(" ")
    return preset, tuple(types.split(",")) if types else ()


_AT_HANDOFF = (Stage.ENCODE, Stage.SCORE)
"""The stages that read the clip's frames, and so go to workers that can."""
_FIXED = {Stage.ENHANCE: IO_QUEUE, Stage.SCREEN: CPU_QUEUE, Stage.PUBLISH: IO_QUEUE}
"""The queue of each other stage but generate, which the dispatcher places."""
_ORDER = tuple(Stage)
_PLACED_AT = _ORDER.index(Stage.GENERATE)
_CHAINS = (_ORDER[:_PLACED_AT], (Stage.GENERATE,), _ORDER[_PLACED_AT + 1 :])
"""The stages that one Celery chain carries a clip through: prepare, generate and deliver."""


def route(stage: Stage, handoff_id: str | None = None) -> str | None:
    """The queue of a stage's steps, for frames in that hand-off; None where the dispatcher places them."""
    if stage is Stage.GENERATE:
        return None
    if stage in _AT_HANDOFF:
        return None if handoff_id is None else encode_queue(handoff_id)
    return _FIXED[stage]


def chain_from(stage: Stage, queue: str, *, scored: bool, last_segment: bool) -> list[tuple[Stage, str]]:
    """The steps that a message for this one carries, each with its queue: itself and what may follow in its chain.

    A clip's segments are encoded one by one, and published with the last.
    """
    chain = next(stages for stages in _CHAINS if stage in stages)
    links = [(stage, queue)]
    if stage is Stage.ENCODE and not last_segment:
        return links
    handoff_id = queue.removeprefix(_ENCODE_PREFIX) if is_encode_queue(queue) else None
    for following in chain[chain.index(stage) + 1 :]:
        next_queue = route(following, handoff_id)
        if next_queue is not None and (scored or following is not Stage.SCORE):
            links.append((following, next_queue))
    return links


@dataclass(frozen=True, slots=True)
class GpuCapacity:
    """What is known of one GPU type's line."""

    slots: int
    in_flight: int
    seconds_each: float | None
    """Mean time of its recent generations; None when there were none."""
    memory_bytes: int | None = None

    @property
    def room(self) -> int:
        """Steps that may still be admitted: one running and one waiting a slot, more while the line is short."""
        window = self.slots * 2
        if self.seconds_each is not None and self.seconds_each > 0:
            window = max(window, self.slots * min(_MOST_WAITING, int(_FAST_LINE_S / self.seconds_each)))
        return window - self.in_flight

    @property
    def expected_wait_s(self) -> float:
        return self.in_flight * (self.seconds_each or 1.0) / max(1, self.slots)


def fits(preset: Preset | None, memory_bytes: int | None) -> bool:
    """False only when both the need and the memory are known and the need is larger."""
    return (
        preset is None or preset.memory_gib is None or memory_bytes is None or preset.memory_gib * _GIB <= memory_bytes
    )


def choose_gpu_type(gpu: Sequence[str], preset: Preset | None, lines: Mapping[str, GpuCapacity]) -> str | None:
    """The live GPU type with room where a job is expected to start soonest; None when it has to wait.

    ``gpu`` are the types that it keeps to, none means any; ``lines`` those of its preset, by type. ``preset`` is None
    where it is not known on this host: the worker decides.
    """
    able = [
        (line.expected_wait_s, gpu_type)
        for gpu_type, line in lines.items()
        if line.slots > 0 and line.room > 0 and (not gpu or gpu_type in gpu) and fits(preset, line.memory_bytes)
    ]
    return min(able)[1] if able else None
