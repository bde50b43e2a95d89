"""Scoring of clips: metrics, checks and VBench's dimensions. Only ``pipeline.scoring.models`` imports torch."""

from pipeline.scoring.clip import Clip, read_clip
from pipeline.scoring.metric import Context, Direction, Expected, Metric, Need, Pooling, Score, not_scored
from pipeline.scoring.registry import GROUPS, METRICS, readiness, select
from pipeline.scoring.residency import Models
from pipeline.scoring.weights import Weights

__all__ = [
    "GROUPS",
    "METRICS",
    "Clip",
    "Context",
    "Direction",
    "Expected",
    "Metric",
    "Models",
    "Need",
    "Pooling",
    "Score",
    "Weights",
    "not_scored",
    "read_clip",
    "readiness",
    "select",
]
