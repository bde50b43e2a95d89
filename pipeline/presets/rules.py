"""The rules of a preset: valid frame counts and sizes."""

from pydantic import BaseModel, ConfigDict, Field


class PresetData(BaseModel):
    """Data of a preset: every key is known, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FrameRule(PresetData):
    """Legal frame counts: ``multiple * k + offset`` within ``[minimum, maximum]``."""

    multiple: int = Field(1, ge=1)
    offset: int = Field(0, ge=0)
    minimum: int = Field(1, ge=1)
    maximum: int = Field(ge=1)

    def allows(self, frames: int) -> bool:
        return self.minimum <= frames <= self.maximum and (frames - self.offset) % self.multiple == 0

    def at_least(self, frames: int) -> int:
        """The smallest legal count that is not below; the largest legal one where there is none."""
        lowest = max(frames, self.minimum)
        legal = lowest + (self.offset - lowest) % self.multiple
        return legal if legal <= self.maximum else self.nearest(self.maximum)[0]

    def nearest(self, frames: int) -> list[int]:
        """The legal counts around an illegal one, at most two, for the error message."""
        below = (frames - self.offset) // self.multiple * self.multiple + self.offset
        legal = [n for n in (below, below + self.multiple) if self.allows(n)]
        if legal:
            return legal
        lowest = self.minimum + (self.offset - self.minimum) % self.multiple
        highest = self.maximum - (self.maximum - self.offset) % self.multiple
        return [lowest] if frames < self.minimum else [highest]


class SizeRule(PresetData):
    """Legal sizes: both sides a multiple of ``multiple`` within ``[minimum, maximum]``, in pixels."""

    multiple: int = Field(ge=1)
    minimum: int = Field(ge=1)
    maximum: int = Field(ge=1)

    def allows(self, side: int) -> bool:
        return self.minimum <= side <= self.maximum and side % self.multiple == 0

    def nearest(self, side: int) -> list[int]:
        """The legal sides around an illegal one, at most two."""
        below = side // self.multiple * self.multiple
        legal = [n for n in (below, below + self.multiple) if self.allows(n)]
        if legal:
            return legal
        return (
            [-(-self.minimum // self.multiple) * self.multiple]
            if side < self.minimum
            else [self.maximum // self.multiple * self.multiple]
        )
