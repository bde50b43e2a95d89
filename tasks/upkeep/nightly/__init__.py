"""The nightly evaluation: a suite becomes a batch, its scores a comparison with what passed before, that a report.

Each part may be done by anybody, any number of times: the batch is stored once under its key, the run is ended by
counting rows, and its verdict is written down once.
"""

from tasks.upkeep.nightly.acceptance import accept
from tasks.upkeep.nightly.history import KIND, MEDIAN_OF, REPEAT
from tasks.upkeep.nightly.judgement import judge, judge_ended, repeat_due
from tasks.upkeep.nightly.plan import Plan, before_the_night, with_options
from tasks.upkeep.nightly.submission import (
    has_baseline,
    other_options,
    past_nights,
    submit,
    submit_repeat,
    submit_rescores,
)

__all__ = [
    "KIND",
    "MEDIAN_OF",
    "REPEAT",
    "Plan",
    "accept",
    "before_the_night",
    "has_baseline",
    "judge",
    "judge_ended",
    "other_options",
    "past_nights",
    "repeat_due",
    "submit",
    "submit_repeat",
    "submit_rescores",
    "with_options",
]
