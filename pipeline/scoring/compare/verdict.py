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
    State.IDENTICAL: "Every clip looks and sounds the same as the baseline's; no scores were needed.",
    State.OK: "The interval of the difference lies above minus the margin: at most so much worse.",
    State.REGRESSED: "The interval lies below minus the margin, also when all gated metrics are counted (Holm).",
    State.INCONCLUSIVE: "The interval holds minus the margin: this many prompts cannot tell.",
    State.NO_CALIBRATION: "No margin was given, or the spread over prompts is not known: nothing is claimed.",
    State.INCOMPLETE: "A clip or score of one run is missing in the other.",
    State.OTHER_FINGERPRINT: "The scores were made by other versions, weights, device, precision or decoder.",
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
