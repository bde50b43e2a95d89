"""The batch options that a submission may set."""

from dataclasses import dataclass

from pipeline.errors import InputError, Problem

_MAX_KEY = 128


@dataclass(frozen=True)
class SubmissionChoices:
    """What a submission may choose for all of its jobs. None is not given: the settings then decide."""

    owner: str | None = None
    name: str | None = None
    key: str | None = None
    """Submitting again under it adds nothing."""
    again: bool = False
    """Make a new batch even if the same content was submitted before."""
    reuse: bool | None = None
    """Make only what no earlier batch of the file has; None: of a file that has a name."""
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

    def require_possible(self) -> None:
        """Raises InputError: choices contradict each other, or the key is too long."""
        if self.key is not None and self.again:
            raise InputError([Problem("--key and --again exclude each other: a key names one batch for ever")])
        if self.reuse and (self.again or self.key is not None):
            raise InputError([Problem("--reuse goes with neither --again nor --key: it makes what is not made yet")])
        if self.key is not None and not 0 < len(self.key) <= _MAX_KEY:
            raise InputError([Problem(f"has {len(self.key)} characters; 1 to {_MAX_KEY} are allowed", field="--key")])
