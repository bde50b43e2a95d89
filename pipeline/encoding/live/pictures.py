"""One JPEG picture a frame, for clients without a MediaSource."""

from __future__ import annotations

import io

from PIL import Image

from pipeline.encoding.live.chunks import Chunk, ChunkKind, OnChunk, Track
from pipeline.errors import FatalError

MIME = "image/jpeg"
_QUALITY = 85
"""Pillow's quality number."""


class PictureEncoder:
    """Gives each frame as a picture, at once."""

    def __init__(self, track: Track, *, on_chunk: OnChunk) -> None:
        self._track = track
        self._on_chunk = on_chunk
        self._chunks = 0
        on_chunk(Chunk(ChunkKind.INIT, -1, b"", MIME))

    def write(self, frame: bytes | memoryview) -> None:
        if len(frame) != self._track.frame_bytes:
            raise FatalError(
                f"a frame has {len(frame)} bytes, and {self._track.frame_bytes} were expected", code="frames_mismatch"
            )
        out = io.BytesIO()
        picture = Image.frombytes("RGB", (self._track.width, self._track.height), bytes(frame))
        picture.save(out, "JPEG", quality=_QUALITY)
        self._on_chunk(Chunk(ChunkKind.MEDIA, self._chunks, out.getvalue()))
        self._chunks += 1

    def finish(self) -> int:
        return self._chunks

    def abort(self) -> None:
        """It holds nothing."""
