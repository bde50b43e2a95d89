"""A gallery that links to the clips where they are stored; nothing is copied."""

import os
from pathlib import Path
from urllib.parse import quote

from pipeline.storage import FolderStorage
from service.gallery.clips import Clip
from service.gallery.media import GONE, Placed


def linked(storage: FolderStorage, folder: Path, home: Path) -> "_Linked":
    """Return media that pages in ``folder`` link to; by relative addresses below ``home``, which may be moved whole."""
    return _Linked(storage, folder.absolute(), storage.root.is_relative_to(home.absolute()))


class _Linked:
    def __init__(self, storage: FolderStorage, folder: Path, relative: bool) -> None:
        self._storage, self._folder, self._relative = storage, folder, relative

    def place(self, clip: Clip) -> Placed:
        present = {kind: file.key for kind, file in clip.files.items() if self._storage.stat(file.key) is not None}
        missing = GONE if "video" in clip.files and "video" not in present else None
        return Placed({kind: self._address(key) for kind, key in present.items()}, missing)

    def _address(self, key: str) -> str:
        if not self._relative:
            return self._storage.url(key, expires_s=1)
        return quote(os.path.relpath(self._storage.root / key, self._folder))
