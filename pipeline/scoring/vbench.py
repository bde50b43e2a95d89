"""VBench's 16 dimensions as metrics: what each needs, whether it is native, how clips pool, and its constants."""

from dataclasses import dataclass

from pipeline.scoring import dimensions
from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Need, Pooling, Score, ScoreFunction, not_scored
from pipeline.scoring.residency import weights_of


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension's place in the aggregates: ``(x - low) / (high - low)``, not clamped, times ``weight``."""

    name: str
    quality: bool
    """One of the seven quality dimensions; otherwise one of the nine semantic ones."""
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    pooling: Pooling = Pooling.MEAN
    scale: float = 1.0
    """The divisor of the clips' pooled value: 100 for imaging_quality."""


_WEIGHTED = Pooling.WEIGHTED
DIMENSIONS: dict[str, Dimension] = {
    dimension.name: dimension
    for dimension in (
        Dimension("subject_consistency", True, 0.1462, pooling=_WEIGHTED),
        Dimension("background_consistency", True, 0.2615, pooling=_WEIGHTED),
        Dimension("temporal_flickering", True, 0.6293),
        Dimension("motion_smoothness", True, 0.706, 0.9975),
        Dimension("dynamic_degree", True, weight=0.5),
        Dimension("aesthetic_quality", True),
        Dimension("imaging_quality", True, scale=100.0),
        Dimension("object_class", False, pooling=_WEIGHTED),
        Dimension("multiple_objects", False, pooling=_WEIGHTED),
        Dimension("human_action", False),
        Dimension("color", False),
        Dimension("spatial_relationship", False, pooling=_WEIGHTED),
        Dimension("scene", False, 0.0, 0.8222, pooling=_WEIGHTED),
        Dimension("appearance_style", False, 0.0009, 0.2855, pooling=_WEIGHTED),
        Dimension("temporal_style", False, 0.0, 0.364),
        Dimension("overall_consistency", False, 0.0, 0.364),
    )
}
"""The dimensions in the order of the published tables, with the constants of VBench's scripts/constant.py."""

QUALITY = tuple(name for name, dimension in DIMENSIONS.items() if dimension.quality)
SEMANTIC = tuple(name for name, dimension in DIMENSIONS.items() if not dimension.quality)
EXTERNAL = ("motion_smoothness", "object_class", "multiple_objects", "color", "spatial_relationship", "scene")
"""Scored by the official code: AMT is not free for commercial use, GRiT and Tag2Text need old libraries."""

_FREE = frozenset({Need.WEIGHTS, Need.GPU})
_PROMPTED = _FREE | {Need.PROMPT}


def _native(
    name: str, title: str, function: ScoreFunction, family: str | None, needs: frozenset[Need], high: float = 1.0
) -> Metric:
    dimension = DIMENSIONS[name]
    return Metric(
        f"vbench.{name}",
        title,
        function,
        needs=needs,
        high=high,
        low=-1.0 if Need.PROMPT in needs or Need.AUXILIARY in needs else 0.0,
        pooling=dimension.pooling,
        family=family,
        weights=() if family is None else weights_of(family),
    )


def _elsewhere(_clip: Clip, _context: Context) -> Score:
    return not_scored("scored by another program")


def _external(name: str, title: str) -> Metric:
    return Metric(f"vbench.{name}", title, _elsewhere, pooling=DIMENSIONS[name].pooling, external=True)


VBENCH = (
    _native("subject_consistency", "frames alike, by DINO", dimensions.subject_consistency, "dino", _FREE),
    _native("background_consistency", "frames alike, by CLIP", dimensions.background_consistency, "clip_b32", _FREE),
    _native("temporal_flickering", "steadiness of pixels", dimensions.temporal_flickering, None, frozenset()),
    _external("motion_smoothness", "how well AMT predicts every second frame"),
    _native("dynamic_degree", "whether anything moves, by RAFT", dimensions.dynamic_degree, "raft", _FREE),
    _native("aesthetic_quality", "LAION's aesthetic rating", dimensions.aesthetic_quality, "aesthetic", _FREE),
    _native("imaging_quality", "MUSIQ, 0 to 100", dimensions.imaging_quality, "musiq", _FREE, 100.0),
    _external("object_class", "whether the object is there, by GRiT"),
    _external("multiple_objects", "whether both objects are there, by GRiT"),
    _native("human_action", "whether the action is shown, by UMT", dimensions.human_action, "umt", _PROMPTED),
    _external("color", "whether the object has the colour, by GRiT"),
    _external("spatial_relationship", "whether the objects stand so, by GRiT"),
    _external("scene", "whether the scene is shown, by Tag2Text"),
    _native(
        "appearance_style", "like the style phrase, by CLIP", dimensions.appearance_style, "clip_b32_text",
        _FREE | {Need.AUXILIARY},
    ),
    _native("temporal_style", "like the prompt, by ViCLIP", dimensions.video_text_likeness, "viclip", _PROMPTED),
    _native("overall_consistency", "like the prompt, by ViCLIP", dimensions.video_text_likeness, "viclip", _PROMPTED),
)  # fmt: skip

STATIC_FILTER = Metric(
    "vbench_tools.static_filter",
    "whether VBench's filter calls the clip static, by RAFT",
    dimensions.static_filter,
    needs=_FREE,
    family="raft",
    weights=weights_of("raft"),
)
