"""Reads the frames of a hand-off file while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.handoff import frames_written

POLL_S = 0.005
"""How often the count of frames is read while they are awaited."""
_LOOK_EVERY = 40
"""Polls after which it is looked whether the file is still the one to follow."""


def follow(
    path: Path,
    frame_bytes: int,
    first: int,
    count: int,
    *,
    wait: Callable[[float], bool],
    complete: Callable[[], bool] = lambda: False,
    superseded: Callable[[], bool] = lambda: False,
) -> Iterator[bytes]:
    """Yield the frames from ``first`` to before ``count``, each as soon as it is there.

    It ends early when the file is gone or was emptied, when ``superseded`` says that another has taken its place, and
    when ``wait``, which is to return after so many seconds, returns True. ``complete`` says that all are written.
    """
    try:
        with path.open("rb", buffering=0) as file:
            number, polls = first, 0
            while number < count:
                if number < frames_written(path) or complete():
                    frame = os.pread(file.fileno(), frame_bytes, number * frame_bytes)
                    if len(frame) < frame_bytes:  # they are encoded, and their room was given back
                        return
                    yield frame
                    number += 1
                    continue
                polls += 1
                if polls % _LOOK_EVERY == 0 and (superseded() or not path.exists()):
                    return
                if wait(POLL_S):
                    return
    except FileNotFoundError:
        return
