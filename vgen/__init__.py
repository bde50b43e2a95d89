"""Clips from Python, without a database or a queue: a model in a child process, loaded once, asked many times.

    from vgen import VideoGenerator, VideoRequest

    with VideoGenerator.from_preset("tiny-wan") as generator:
        result = generator.generate(VideoRequest("a red fox", seed=7), output="fox.mp4")

The clips are those that the line makes of the same request, frame by frame. A name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgen.config import RunConfig, read_config
    from vgen.events import ClipEvent, FinalEvent, ProgressEvent
    from vgen.generator import VideoGenerator
    from vgen.request import Lora, VideoRequest
    from vgen.result import VideoResult

__all__ = [
    "ClipEvent",
    "FinalEvent",
    "Lora",
    "ProgressEvent",
    "RunConfig",
    "VideoGenerator",
    "VideoRequest",
    "VideoResult",
    "read_config",
]
_HOMES = {
    "RunConfig": "config",
    "read_config": "config",
    "ClipEvent": "events",
    "FinalEvent": "events",
    "ProgressEvent": "events",
    "VideoGenerator": "generator",
    "Lora": "request",
    "VideoRequest": "request",
    "VideoResult": "result",
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"vgen.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
