"""A clip as a card on a wall: poster, specification and outcome."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Card:
    """What ``card.html`` shows of one clip. Addresses are relative or absolute URLs, made by the program."""

    id: str
    prompt: str
    state: str
    seed: int | None = None
    href: str | None = None
    """Where the card leads: the page of its job, or the video."""
    video: str | None = None
    poster: str | None = None
    strip: str | None = None
    """A picture of frames side by side, to scrub over."""
    strip_frames: int = 0
    score: tuple[str, float] | None = None
    """The metric and the value that are shown."""
    labels: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    """Why there is no clip, in a sentence."""
    command: str | None = None
    """The command that mends it."""
    stars: float | None = None
    """The mean of all raters' stars, of five."""
    own_stars: int = 0
    """Those that the one who looks gave; 0: none."""
    own_note: str | None = None
    """What the one who looks noted."""
    note: str | None = None
    """What people noted, a line each."""
    won: tuple[int, int] | None = None
    """How many of how many votes it won."""
    missing: str | None = None
    """Why there is no picture: not made yet, swept, the store cannot be reached."""
