"""The options of a whole batch, as they are given with a submission."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SubmissionChoices:
    """What a submission may choose for all of its jobs. None is not given: the settings then decide."""

    owner: str | None = None
    name: str | None = None
    key: str | None = None
    """Submitting again under it adds nothing."""
    again: bool = False
    """Make a new batch even if the same content was submitted before."""
    safety_policy: str | None = None
    codec: str | None = None
    quality: int | None = None
    score: str | None = None
    gate: list[str] | None = None
    reroll: int | None = None
    by: str | None = None
    """The deadline, as ``pipeline.policy.deadlines`` reads it."""
    max_gpu_hours: float | None = None
    max_cost: float | None = None
