"""Where a segment's frames can be read: in the hand-off folder, as they are written, or in its published clip."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.encoding import sound as sounds
from pipeline.encoding.ffmpeg import Sound
from pipeline.encoding.live import sound_beside
from pipeline.encoding.live.following import follow
from pipeline.encoding.probe import has_sound
from pipeline.media.opening import open_media
from pipeline.settings import Settings
from pipeline.wiring import make_storage


class Frames(Protocol):
    """A segment's frames, from one place."""

    @property
    def count(self) -> int:
        """Return how many there are, or will be."""

    def sound(self) -> Sound | None:
        """Return what goes with them, once the first one was read; None: nothing."""

    @property
    def sound_repeats(self) -> int:
        """Return how many frames the sound begins before the pictures."""

    def read(self, first: int) -> Iterator[bytes]:
        """Yield the frames from one on, each as soon as it is there; it may end early, where they come no more."""


@dataclass(frozen=True, slots=True)
class WrittenFrames:
    """The frames of an attempt on this host: its file has its full size from the beginning."""

    path: Path
    frame_bytes: int
    count: int
    all_frames: int
    """With those that the segment repeats, of which there is sound only."""
    wait: Callable[[float], bool]
    complete: Callable[[], bool]
    superseded: Callable[[], bool]

    @property
    def sound_repeats(self) -> int:
        return max(0, self.all_frames - self.count)

    def sound(self) -> Sound | None:
        return sound_beside(self.path)

    def read(self, first: int) -> Iterator[bytes]:
        yield from follow(
            self.path,
            self.frame_bytes,
            first,
            self.count,
            wait=self.wait,
            complete=self.complete,
            superseded=self.superseded,
        )


class PublishedFrames:
    """The frames of the published clip, which is kept in a folder until it is closed."""

    sound_repeats = 0

    def __init__(self, settings: Settings, key: str, count: int, fps: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vgen-stream-")
        self._path = Path(self._folder.name) / "clip.mp4"
        self.count = count
        self._fps = fps
        try:
            make_storage(settings).download(key, self._path)
        except BaseException:
            self.close()
            raise

    def sound(self) -> Sound | None:
        if not has_sound(self._path):
            return None
        raw = self._path.with_suffix(".sound")
        rate, channels = sounds.decode(self._path, raw, fps=self._fps, num_frames=self.count, check=lambda: None)
        return Sound(raw, rate, channels)

    def read(self, first: int) -> Iterator[bytes]:
        with open_media(self._path) as container:
            for number, shown in enumerate(container.decode(video=0)):
                if number >= self.count:
                    return
                if number >= first:
                    yield shown.to_ndarray(format="rgb24").tobytes()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.cleanup()
