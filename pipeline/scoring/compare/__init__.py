"""Comparison of two evaluation runs, with statistics that can be defended, and its report."""

from pipeline.scoring.compare.comparison import (
    Comparison,
    MetricComparison,
    PromptDifference,
    compare,
    read_margins,
    repeated,
    with_repeat_option,
)
from pipeline.scoring.compare.runs import Key, Run, RunClip, combined, identical, median_run, playable, read_run, run_of
from pipeline.scoring.compare.speed import SpeedSample, SpeedVerdict, Threshold, speed_verdicts
from pipeline.scoring.compare.verdict import MEANING, PASSED, State, advice

__all__ = [
    "MEANING",
    "PASSED",
    "Comparison",
    "Key",
    "MetricComparison",
    "PromptDifference",
    "Run",
    "RunClip",
    "SpeedSample",
    "SpeedVerdict",
    "State",
    "Threshold",
    "advice",
    "combined",
    "compare",
    "identical",
    "median_run",
    "playable",
    "read_margins",
    "read_run",
    "repeated",
    "run_of",
    "speed_verdicts",
    "with_repeat_option",
]
