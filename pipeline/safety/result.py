"""The result of screening one text, and the error of a classifier that cannot be used."""

from dataclasses import dataclass
from enum import StrEnum

from pipeline.errors import VgenError


class ClassifierError(VgenError):
    """The classifier file cannot be used; the message has its path and what is wrong with it."""

    code = "classifier_invalid"


class SafetyDecision(StrEnum):
    """The classifier's decision on one text."""

    ALLOW = "allow"
    """Not unsafe, or not surely enough."""
    BLOCK = "block"
    """Labelled unsafe with at least the threshold's score."""
    UNAVAILABLE = "unavailable"
    """No verdict: the classifier cannot be used. The policy decides what follows."""


@dataclass(frozen=True, slots=True)
class SafetyResult:
    """The verdict on one text. ``score`` is the label's probability, 0 to 1; ``label`` is without fastText's prefix."""

    prompt: str
    decision: SafetyDecision
    score: float | None = None
    label: str | None = None
    reason: str = ""
    model_version: str | None = None
    """sha256 of the classifier file."""
