"""Posters made small for walls, when they are first asked for, and kept for a while.

They are derived here and not stored beside the clip: so clips of every release have one, no object more is put, listed
and swept for each clip, and the stored poster stays the only truth. Browsers keep what they got for good, by digest.
"""

import threading
from collections import OrderedDict

from db.models import ArtifactRow
from pipeline.encoding.pictures import small_poster
from pipeline.storage import Storage

WIDTH = 320
"""Pixels: a card is up to 320 wide."""
MEDIA_TYPE = "image/webp"
_KEPT_BYTES = 32 * 2**20
"""A small poster has about 5 to 15 kB: some thousands of them."""
_LARGEST_BYTES = 20 * 2**20


class Thumbnails:
    """Small posters by the digest of what they were made of, the least recently asked for forgotten first."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._pictures = OrderedDict[str, bytes]()
        self._size = 0
        self._lock = threading.Lock()

    def of(self, storage: Storage, poster: ArtifactRow) -> bytes | None:
        """Return the small poster; None: this one cannot be made small, show it as it is.

        Raises NotFoundError where the poster is no longer in the store, RetryableError where the store is away.
        """
        with self._lock:
            if (known := self._pictures.get(poster.sha256)) is not None:
                self._pictures.move_to_end(poster.sha256)
                return known
        if poster.size > _LARGEST_BYTES:
            return None
        try:
            made = small_poster(storage.read_bytes(poster.key), WIDTH)
        except (OSError, ValueError):  # damaged, or no picture that Pillow reads
            return None
        with self._lock:
            if poster.sha256 not in self._pictures:
                self._pictures[poster.sha256] = made
                self._size += len(made)
            while self._size > self._kept_bytes and self._pictures:
                self._size -= len(self._pictures.popitem(last=False)[1])
        return made
