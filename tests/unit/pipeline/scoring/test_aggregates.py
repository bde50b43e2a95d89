"""Aggregates against the published tables, and what is left out when something is missing."""

from __future__ import annotations

import pytest

from pipeline.scoring import Pooling, Score, not_scored
from pipeline.scoring.aggregates import aggregate, disagreements, normalise, pool, pool_dimension
from pipeline.scoring.vbench import DIMENSIONS

ORDER = (
    "subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness", "dynamic_degree",
    "aesthetic_quality", "imaging_quality", "object_class", "multiple_objects", "human_action", "color",
    "spatial_relationship", "scene", "appearance_style", "temporal_style", "overall_consistency",
)  # fmt: skip
# Percent: the 16 dimensions, then quality, semantic and total as published (FlashVideo, arXiv 2502.05179, table 1;
# AccVideo's README).
PUBLISHED = {
    "CogVideoX-5B": "96.23 96.52 98.66 96.92 70.97 61.98 62.90 85.23 62.11 99.40 82.81 66.35 53.20 24.91 25.38 27.59"
    " 82.75 77.04 81.61",
    "CogVideoX-2B": "96.42 96.53 98.45 97.76 58.33 61.47 65.60 87.81 69.35 97.00 86.87 54.64 57.51 24.93 25.56 28.01"
    " 82.51 77.79 81.57",
    "Mochi-1": "96.99 97.28 99.40 99.02 61.85 56.94 60.64 86.51 50.47 94.60 79.73 69.24 36.99 20.33 23.65 25.15"
    " 82.64 70.08 80.13",
    "AccVideo-HunyuanT2V": "94.46 97.45 99.18 98.79 75.00 62.08 65.64 92.99 67.33 95.60 94.11 75.70 54.72 19.87 23.71"
    " 27.21 84.58 77.96 83.26",
    "FlashVideo-24fps": "97.19 97.09 98.52 98.89 56.88 62.11 65.40 88.38 78.93 99.40 84.84 82.16 57.43 24.36 25.26"
    " 27.59 83.35 81.56 82.99",
}


def row(text: str) -> tuple[dict[str, float], list[float]]:
    numbers = [float(part) for part in text.split()]
    return {name: value / 100 for name, value in zip(ORDER, numbers[:16], strict=True)}, numbers[16:]


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_rows_are_reproduced(model: str) -> None:
    values, published = row(PUBLISHED[model])
    assert aggregate(values).missing == ()
    assert disagreements(values, dict(zip(("quality", "semantic", "total"), published, strict=True))) == {}


def test_a_published_sum_that_its_own_row_does_not_give_is_noticed() -> None:
    """FlashVideo's 8 fps row was published with a semantic score 0.104 below its dimensions': as far off as here."""
    values, published = row(PUBLISHED["FlashVideo-24fps"])
    found = disagreements(values, {"quality": published[0], "semantic": published[1] - 0.104, "total": published[2]})
    assert list(found) == ["semantic"]
    assert found["semantic"] == pytest.approx(0.104, abs=0.01)


def test_no_sum_without_all_its_dimensions() -> None:
    values, _ = row(PUBLISHED["Mochi-1"])
    for name, dimension in DIMENSIONS.items():
        found = aggregate({key: value for key, value in values.items() if key != name})
        assert found.total is None
        assert (found.quality is None) is dimension.quality
        assert (found.semantic is None) is not dimension.quality
        assert found.missing == (name,)
    with pytest.raises(ValueError, match="'speed' is not a VBench dimension"):
        aggregate({"speed": 1.0})


def test_values_beyond_the_constants_are_not_clamped() -> None:
    assert normalise("subject_consistency", 0.1) < 0
    assert normalise("overall_consistency", 0.4) > 1


def test_pooling_follows_the_official_code() -> None:
    scores = [Score(0.5, weight=1), Score(1.0, weight=3), not_scored("broken")]
    assert pool(scores, Pooling.MEAN).value == 0.75
    weighted = pool(scores, Pooling.WEIGHTED)
    assert (weighted.value, weighted.scored, weighted.not_scored) == (0.875, 2, 1)
    assert pool([not_scored("broken")], Pooling.MEAN).value is None
    assert pool_dimension("imaging_quality", [Score(60.0), Score(70.0)]).value == 0.65
    assert pool_dimension("subject_consistency", scores).value == 0.875
    assert pool_dimension("temporal_flickering", scores).value == 0.75
