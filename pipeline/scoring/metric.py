"""The definition of a metric: a name, its needs, its number's meaning, and a function from a clip to a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.scoring.clip import Clip
    from pipeline.scoring.residency import Models


class Need(StrEnum):
    """The needs of a metric besides the clip."""

    REFERENCE = "reference"
    """A clip to compare with, of the same size and length."""
    PROMPT = "prompt"
    """The prompt the clip was made from."""
    AUXILIARY = "auxiliary"
    """The suite entry's ``auxiliary_info`` for this dimension, such as the style phrase."""
    IMAGE = "image"
    """The picture that the clip was made from."""
    WEIGHTS = "weights"
    """Model files; ``Metric.weights`` names them."""
    GPU = "gpu"
    """Practical on a GPU only; it still runs on a CPU."""


class Direction(StrEnum):
    """The direction in which a score is better."""

    HIGHER = "higher"
    LOWER = "lower"


class Pooling(StrEnum):
    """The way the scores of many clips become one."""

    MEAN = "mean"
    """Every scored clip counts once."""
    WEIGHTED = "weighted"
    """Every clip counts ``Score.weight`` times: its frames or frame pairs."""


@dataclass(frozen=True, slots=True)
class Score:
    """One clip's result. ``score`` is None when it could not be scored, and then ``reason`` says why."""

    score: float | None
    reason: str | None = None
    weight: float = 1.0
    passed: bool | None = None
    """The verdict of a check; None for other metrics."""
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """``score`` and ``details``, with everything else that is known inside ``details``."""
        details: dict[str, Any] = dict(self.details)
        if self.score is None:
            details["reason"] = self.reason
        else:
            details["weight"] = self.weight
        if self.passed is not None:
            details["passed"] = self.passed
        return {"score": self.score, "details": details}


MOST_ELONGATED = 16
"""The longest side in lengths of the other at which models look: they see the shorter one as 224 pixels or so, and a
clip of 4096x2 would be half a million pixels wide."""


def not_scored(reason: str, **details: Any) -> Score:
    """A clip that this metric cannot score: never 0 or 1, always with the reason."""
    return Score(None, reason, details=details)


@dataclass(frozen=True, slots=True)
class Expected:
    """The properties asked of the generator; None is unknown. Checks compare with them."""

    num_frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """Everything about one clip that is not in its file.

    ``auxiliary`` is keyed by dimension and holds what VBench's suite holds there, without its wrapping.
    """

    models: Models
    prompt: str | None = None
    reference: Clip | None = None
    auxiliary: Mapping[str, Any] = field(default_factory=dict)
    expected: Expected = field(default_factory=Expected)
    image: Image | None = None
    """The picture that the clip was made from, RGB and upright."""
    dimensions: tuple[str, ...] | None = None
    """The dimensions that a suite's clip is for; None for other clips."""


ScoreFunction = Callable[["Clip", Context], Score]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``version`` rises whenever its numbers could change."""

    name: str
    """Dotted: ``group.metric``."""
    title: str
    score_clip: ScoreFunction
    version: int = 1
    needs: frozenset[Need] = frozenset()
    low: float | None = 0.0
    """Least value possible; None is unbounded."""
    high: float | None = 1.0
    direction: Direction = Direction.HIGHER
    pooling: Pooling = Pooling.MEAN
    family: str | None = None
    """Model that is loaded for it; metrics of one family share it."""
    weights: tuple[str, ...] = ()
    """Official names of the weight files."""
    external: bool = False
    """True where another program scores it: ``vgen eval export`` and ``import``."""

    @property
    def perfect(self) -> float | None:
        """The score of a clip that equals its reference, of a metric that needs one; None of the others."""
        if Need.REFERENCE not in self.needs:
            return None
        return self.high if self.direction is Direction.HIGHER else self.low

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]

    @property
    def dimension(self) -> str:
        """The name without its group."""
        return self.name.partition(".")[2]

    @property
    def suite_dimension(self) -> str | None:
        """The VBench dimension by which a suite asks for it; None for what every clip is scored by."""
        if self.name == "vbench_tools.static_filter":
            return "temporal_flickering"  # whose clips are the ones that are filtered
        return self.dimension if self.group in ("vbench", "vbench_long") else None

    def scores_clip_of(self, dimensions: Collection[str] | None) -> bool:
        """Return whether it scores a clip of a suite's entry with these dimensions; of any clip where None."""
        return dimensions is None or self.suite_dimension is None or self.suite_dimension in dimensions

    def score(self, clip: Clip, context: Context) -> Score:
        """Score one clip; a number that is not finite becomes "not scored".

        Raises:
            RefusedError: code ``eval_weights_missing`` or ``eval_weights_wrong``.
        """
        if self.external:
            return not_scored("scored by another program: `vgen eval export`, then `vgen eval import`")
        if Need.REFERENCE in self.needs and context.reference is None:
            return not_scored("needs a reference clip, and none was given")
        if Need.PROMPT in self.needs and not (context.prompt and context.prompt.strip()):
            return not_scored("needs the prompt, and none was given")
        if Need.IMAGE in self.needs and context.image is None:
            return not_scored("needs the picture that the clip was made from, and none was given")
        if Need.AUXILIARY in self.needs and not context.auxiliary.get(self.dimension):
            return not_scored(f"needs the suite's auxiliary_info for {self.dimension}, and none was given")
        shorter, longer = sorted((clip.width, clip.height))
        if self.weights and self.group != "sound" and longer > MOST_ELONGATED * shorter:
            return not_scored(
                f"the clip is {clip.width}x{clip.height}; models look at clips whose one side is at most "
                f"{MOST_ELONGATED} times the other"
            )
        result = self.score_clip(clip, context)
        details = {name: _finite(value) for name, value in result.details.items()}
        if result.score is not None and not (math.isfinite(result.score) and math.isfinite(result.weight)):
            return not_scored(f"the result is not a finite number ({result.score})", **details)
        return replace(result, details=details)


def _finite(value: Any) -> Any:
    """The value with None in place of each number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
