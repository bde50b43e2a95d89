"""Small video files made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av


def write_video(path: Path, pictures: Sequence[Any], fps: int = 8, codec: str = "libx264") -> Path:
    """The pictures (Pillow's, of one even size) as a video; the name's ending says in which container."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path
