"""Where a gallery's pages find a clip's files: the protocol of the linked and the copied form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from service.gallery.clips import Clip

AWAY = "the store could not be reached when this page was written"
GONE = "not in the store any more"
DAMAGED = "damaged in the store"


@dataclass(frozen=True, slots=True)
class Placed:
    """A clip's files as a page addresses them."""

    addresses: Mapping[str, str]
    """URLs, relative to the page or absolute, by kind."""
    missing: str | None = None
    """Why one that was published is not there."""
    objects: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Digest and size of each file of the gallery's own that was put beside the pages, by name."""


class Media(Protocol):
    """A way for pages to show the store's files."""

    def place(self, clip: Clip) -> Placed: ...
