"""A batch as a wall of clips in a folder: pages that need no server and no network."""

from service.gallery.clips import Clip, clips_of
from service.gallery.copied import copied
from service.gallery.linked import linked
from service.gallery.writer import Written, write

__all__ = ["Clip", "Written", "clips_of", "copied", "linked", "write"]
