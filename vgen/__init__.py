"""Clips from Python, without a database or a queue: a model in a child process, loaded once, asked many times.

    from vgen import VideoGenerator, VideoRequest

    with VideoGenerator.from_preset("tiny-wan") as generator:
        result = generator.generate(VideoRequest("a red fox", seed=7), output="fox.mp4")

The clips are those that the line makes of the same request, frame by frame.
"""

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
