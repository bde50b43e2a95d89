"""The events that an asynchronous generation yields."""

from dataclasses import dataclass

from vgen.result import VideoResult


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """A sign of life: ``step`` of ``total`` in ``phase`` (``load``, ``warm_up``, ``encode_text``, ``denoise``, …)."""

    phase: str
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class FinalEvent:
    """The last one: the clip is made."""

    result: VideoResult


ClipEvent = ProgressEvent | FinalEvent
