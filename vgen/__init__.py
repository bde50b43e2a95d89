"""Clips from Python: batches that nothing loses, and single clips without a database or a queue.

    import vgen

    batch = vgen.submit(["a red fox", {"prompt": "a lighthouse", "seed": 7}])
    batch.wait()

`vgen.batches` says more. Of single clips, a model is loaded once in a child process, and asked many times:

    from vgen import VideoGenerator, VideoRequest

    with VideoGenerator.from_preset("shapes-wan") as generator:
        result = generator.generate(VideoRequest("a red star rises", seed=7), output="star.mp4")

The clips are those that the line makes of the same request, frame by frame. A name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgen.batches import Batch, Clip, Connection, connect, submit, submit_async
    from vgen.config import RunConfig, read_config
    from vgen.events import ClipEvent, FinalEvent, ProgressEvent
    from vgen.generator import VideoGenerator
    from vgen.request import Lora, VideoRequest
    from vgen.result import VideoResult
    from vgen.streaming import StreamedVideo, StreamingVideoGenerator

__all__ = [
    "Batch",
    "Clip",
    "ClipEvent",
    "Connection",
    "FinalEvent",
    "Lora",
    "ProgressEvent",
    "RunConfig",
    "StreamedVideo",
    "StreamingVideoGenerator",
    "VideoGenerator",
    "VideoRequest",
    "VideoResult",
    "connect",
    "read_config",
    "submit",
    "submit_async",
]
_HOMES = {
    **dict.fromkeys(("Batch", "Clip", "Connection", "connect", "submit", "submit_async"), "batches"),
    "RunConfig": "config",
    "read_config": "config",
    "ClipEvent": "events",
    "FinalEvent": "events",
    "ProgressEvent": "events",
    "VideoGenerator": "generator",
    **dict.fromkeys(("StreamedVideo", "StreamingVideoGenerator"), "streaming"),
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
