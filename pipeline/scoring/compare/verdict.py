"""The verdict on a metric, and on a run, against a baseline."""

from enum import StrEnum


class State(StrEnum):
    """The verdict on a metric or on a whole comparison."""

    IDENTICAL = "identical"
    OK = "ok"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    NO_CALIBRATION = "no_calibration"
    INCOMPLETE = "incomplete"
    OTHER_FINGERPRINT = "other_fingerprint"


MEANING: dict[State, str] = {
    State.IDENTICAL: "Every clip looks and sounds exactly like the baseline's, so that no scores were compared.",
    State.OK: "No gated metric lost more than its margin allows: each confidence interval lies above minus the margin.",
    State.REGRESSED: (
        "A gated metric lost more than its margin allows: its confidence interval lies below minus the margin, also "
        "after Holm's correction for the number of gated metrics."
    ),
    State.INCONCLUSIVE: (
        "Minus the margin lies within the confidence interval of a gated metric: this number of prompts cannot tell "
        "whether the loss is larger than the margin."
    ),
    State.NO_CALIBRATION: (
        "No verdict is possible: no margin was given, or too few prompts differ to estimate the spread."
    ),
    State.INCOMPLETE: "A clip or a score that one run has is missing in the other.",
    State.OTHER_FINGERPRINT: (
        "The scores of the two runs cannot be compared: they were computed by different versions, weights, devices, "
        "precisions or decoders."
    ),
}

PASSED = frozenset({State.OK, State.IDENTICAL})

_GRAVEST_FIRST = (
    State.REGRESSED,
    State.OTHER_FINGERPRINT,
    State.INCOMPLETE,
    State.NO_CALIBRATION,
    State.INCONCLUSIVE,
    State.OK,
)


def most_severe(states: list[State]) -> State:
    """The state of a whole: ok only when all are. Of none it is no_calibration: nothing was gated."""
    return next((state for state in _GRAVEST_FIRST if state in states), State.NO_CALIBRATION)


def advice(first: State, again: State | None = None) -> str | None:
    """Return what to do after a comparison, and after one of both seed sets; None when there is nothing to do.

    One alarm needs both to say regressed, so it is at most as frequent by chance as one of them.
    """
    if first is not State.REGRESSED:
        return None
    if again is None:
        return "repeat with a second seed set before alarming"
    if again is State.REGRESSED:
        return "alarm: it repeats with a second seed set"
    return "no alarm: it did not repeat" if again in PASSED else "no alarm: both seed sets together cannot tell"
