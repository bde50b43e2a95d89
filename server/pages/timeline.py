"""The timeline of a job: its attempts as bars, and between them what happened to it, with words for each."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.outputs import GenerateOutput
from pipeline.states import AttemptOutcome, Stage
from service.views.jobs import AttemptView, JobDetailView

_ENDED: dict[str, tuple[str, str]] = {
    AttemptOutcome.DONE: ("done", ""),
    AttemptOutcome.SKIPPED: ("done", "nothing to do"),
    AttemptOutcome.HELD: ("stopped", "held for a person"),
    AttemptOutcome.BLOCKED: ("lost", "blocked"),
    AttemptOutcome.REJECTED: ("stopped", "the gate rejected the clip"),
    AttemptOutcome.RETRIED: ("lost", "failed, to be tried again"),
    AttemptOutcome.FAILED: ("lost", "failed for good"),
    AttemptOutcome.CANCELLED: ("stopped", "cancelled"),
    AttemptOutcome.RELEASED: ("stopped", "given back: a drain or a pause"),
    AttemptOutcome.REWOUND: ("lost", "rewound: the result of an earlier step is gone"),
    AttemptOutcome.LEASE_ENDED: ("lost", "killed: its worker no longer renewed the lease"),
}
"""Each outcome as a class of bars, and in words where it is not plain."""
_QUIET = frozenset({"at", "kind", "code", "by_key"})
_WORDS = re.compile(r"\s+|[^\s]+")
_MAX_COMPARED = 4000
"""Words of two prompts that are compared; longer ones are shown as they are."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline."""

    at: str
    what: str
    kind: str
    """``done``, ``stopped`` or ``lost`` for an attempt, ``event`` for what happened."""
    note: str = ""
    where: str | None = None
    task_url: str | None = None
    """The page of the attempt's task in Flower."""
    seconds: float | None = None
    begin: float = 0.0
    width: float = 0.0
    """The bar: from where, and how wide, of 100."""


def timeline(detail: JobDetailView) -> list[Entry]:
    """Return the attempts that have ended and the job's events, in the order of time."""
    began = [_time(attempt.started_at) for attempt in detail.attempts]
    first = min(began, default=0.0)
    span = max((_time(attempt.ended_at) for attempt in detail.attempts), default=first) - first or 1.0
    resumed = _resumed(detail)
    bars = [_bar(attempt, first, span, resumed, len(detail.segments)) for attempt in detail.attempts]
    happened = [Entry(event.at, event.kind.replace("_", " "), "event", _facts(event.data)) for event in detail.events]
    return sorted([*bars, *happened], key=lambda entry: entry.at)


def _bar(attempt: AttemptView, first: float, span: float, resumed: dict[tuple[int, int], int], segments: int) -> Entry:
    kind, words = _ENDED.get(attempt.outcome, ("stopped", attempt.outcome))
    begin, end = _time(attempt.started_at), _time(attempt.ended_at)
    step = resumed.get((attempt.segment or 0, attempt.attempt)) if attempt.stage == Stage.GENERATE else None
    notes = [words, f"went on from step {step}" if step else "", _error(attempt)]
    part = f" of segment {attempt.segment + 1}" if segments > 1 and attempt.segment is not None else ""
    return Entry(
        at=attempt.started_at,
        what=f"{attempt.stage}{part}, attempt {attempt.attempt}",
        kind=kind,
        note="; ".join(note for note in notes if note),
        where=attempt.worker,
        task_url=attempt.task_url,
        seconds=end - begin,
        begin=round(100 * (begin - first) / span, 2),
        width=max(0.4, round(100 * (end - begin) / span, 2)),
    )


def _resumed(detail: JobDetailView) -> dict[tuple[int, int], int]:
    """The steps from which attempts at generating went on, by segment and attempt."""
    return {
        (step.segment, step.attempt): generated.facts.resumed_from_step
        for step in detail.steps
        if step.stage == Stage.GENERATE
        and (generated := GenerateOutput.from_row(step.output)) is not None
        and generated.facts.resumed_from_step
    }


def _error(attempt: AttemptView) -> str:
    return f"{attempt.error_code}: {attempt.error}" if attempt.error_code else ""


def _facts(data: dict[str, Any]) -> str:
    shown = {name: value for name, value in data.items() if name not in _QUIET and value is not None}
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in shown.items()
    )


def _time(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def difference(before: str, after: str) -> list[tuple[str, str]]:
    """Return the second text in parts, each with ``same``, ``added`` or ``removed``, which is of the first alone."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) + len(new) > _MAX_COMPARED:
        return [("same", after)]
    return list(_parts(old, new))


def _parts(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, str]]:
    for tag, old_from, old_to, new_from, new_to in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if tag == "equal":
            yield "same", "".join(new[new_from:new_to])
            continue
        if old_to > old_from:
            yield "removed", "".join(old[old_from:old_to])
        if new_to > new_from:
            yield "added", "".join(new[new_from:new_to])
