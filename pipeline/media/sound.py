"""Decodes the sound of a file to mono samples at a given rate."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.media.opening import UnreadableMediaError, open_media

MAX_S = 600.0
"""The most seconds that are read: 115 MB at 48 kHz."""


def read_sound(path: Path, rate: int) -> NDArray[np.float32]:
    """Samples of -1..1 of the first sound stream, its channels mixed to one, at ``rate`` Hz; at most ``MAX_S`` of it.

    Raises:
        UnreadableMediaError: it cannot be read, has no sound, or the sound does not decode.
    """
    import av  # noqa: PLC0415 - slow to load

    with open_media(path) as container:
        if not container.streams.audio:
            raise UnreadableMediaError("it has no sound")
        resampler = av.AudioResampler(format="fltp", rate=rate)
        parts: list[NDArray[np.float32]] = []
        count, most = 0, int(MAX_S * rate)
        for frame in container.decode(container.streams.audio[0]):
            pieces = _samples(resampler.resample(frame))
            count += sum(map(len, pieces))
            parts += pieces
            if count >= most:
                break
        parts += _samples(resampler.resample(None))
    return np.concatenate([np.zeros(0, np.float32), *parts])[:most]


def _samples(frames: Iterable[Any]) -> list[NDArray[np.float32]]:
    """The mean of the channels: FFmpeg's own mix would be louder by 3 dB where they are alike."""
    return [frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames]
