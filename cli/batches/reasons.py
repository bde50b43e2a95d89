"""Puts reasons into words: why jobs wait, for how long, and which command helps."""

from collections.abc import Sequence

from cli import times
from db.reading.reasons import Code
from service.views.waiting import ReasonView, WaitView


def sentence(reason: ReasonView, *, mend: bool = True) -> str:
    """Return the reason as one sentence, with its times and the command that mends it."""
    text = reason.text
    if reason.since is not None and reason.code == Code.LOADING:
        text += f", {times.so_far(reason.since)}"
    elif reason.since is not None:
        text += f", since {times.clock(reason.since)}"
    if reason.until is not None:
        text += f"; tried again in {_until(reason.until)}"
    return f"{text}: `{reason.mend}`" if mend and reason.mend else text


def _until(until: str) -> str:
    return times.left(until).removeprefix("about ").replace(" left", "", 1)


def of_waits(waits: Sequence[WaitView]) -> list[str]:
    """Return a sentence for each reason, with how many jobs wait for it, and at which stage."""
    return [f"{_jobs(wait.jobs)} at {wait.stage}: {sentence(wait.reason)}" for wait in waits]


def _jobs(count: int) -> str:
    return "1 job waits" if count == 1 else f"{count} jobs wait"
