"""Follows batches until they end, with a live display on a terminal and plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from cli import output, times
from cli.batches.patience import RETRY_S, Patience
from db.clips import batches
from db.evals import score_steps
from db.reading import estimates
from db.session import Database
from pipeline.generators.base import Phase
from pipeline.states import TERMINAL_JOB_STATES
from service.views.batches import BatchView, batch_view
from service.views.jobs import RunningView, running_view

POLL_S = 0.3
_PLAIN_PROGRESS_S = 10.0
"""The least seconds between two displays of running steps, where lines are appended."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Some batches and the steps that workers hold, at one instant."""

    batches: tuple[BatchView, ...]
    running: tuple[RunningView, ...]
    scoring: int = 0
    """Steps of evaluation runs over these batches that are still to be done."""
    waiting: tuple[str, ...] = ()
    """Why jobs that are not at work wait, what needs a person first."""
    at_rest: Mapping[str, str] = field(default_factory=dict)
    """Stopped batches of which nothing runs or will run before a person says so, with the reason."""

    @property
    def ended(self) -> int:
        return sum(batch.counts[state.value] for batch in self.batches for state in TERMINAL_JOB_STATES)

    @property
    def total(self) -> int:
        return sum(batch.total for batch in self.batches)

    @property
    def finished(self) -> bool:
        return all(batch.finished for batch in self.batches) and not self.scoring

    @property
    def stopped(self) -> list[str]:
        """A sentence for each batch that is at rest unfinished."""
        return [f"batch {batch_id}: {reason}" for batch_id, reason in self.at_rest.items()]

    @property
    def needs_people(self) -> bool:
        """Return whether nothing can move before a person approves, rejects, resumes or raises a budget."""
        return (
            not self.finished
            and not self.scoring
            and all(
                batch.finished or batch.id in self.at_rest or not (batch.counts["waiting"] + batch.counts["in_flight"])
                for batch in self.batches
            )
            and not self.running
        )


def snapshot_of(database: Database, batch_ids: Sequence[str]) -> Snapshot:
    """Read the batches as they are now."""
    with database.reading() as session:
        counts = batches.counts(session, batch_ids)
        rows = [batches.get(session, batch_id) for batch_id in batch_ids]
        return Snapshot(
            tuple(batch_view(row, counts[row.id]) for row in rows),
            tuple(running_view(*step) for batch_id in batch_ids for step in batches.running_steps(session, batch_id)),
            sum(score_steps.left(session, batch_ids).values()),
            at_rest={
                row.id: estimates.why_stopped(session, row) or "" for row in rows if estimates.rests(session, row)
            },
        )


class Display(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, snapshot: Snapshot) -> None: ...


class PlainDisplay:
    """A line whenever a job ends, and now and then what is running. Writes to stderr, so that stdout is the result."""

    def __init__(self) -> None:
        self._counts: object = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, snapshot: Snapshot) -> None:
        counts = (snapshot.ended, snapshot.total, snapshot.scoring)
        now = time.monotonic()
        if counts == self._counts and now - self._last < _PLAIN_PROGRESS_S:
            return
        self._counts, self._last = counts, now
        running = ", ".join(_describe(step) for step in snapshot.running[:4])
        more = f" and {len(snapshot.running) - 4} more" if len(snapshot.running) > 4 else ""
        waiting = f"; {snapshot.waiting[0]}" if snapshot.waiting and not running and not snapshot.finished else ""
        output.notice(f"{_sum(snapshot)}{f'; running: {running}{more}' if running else ''}{waiting}")


class LiveDisplay:
    """A bar for all jobs with the time left, and one for each running step."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            speed_estimate_period=600,
        )
        self._all: Any = None
        self._steps: dict[tuple[str, str, int], Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, snapshot: Snapshot) -> None:
        if self._all is None:
            self._all = self._progress.add_task("jobs", total=snapshot.total, completed=0)
        waiting = f"; {snapshot.waiting[0]}" if snapshot.waiting and not (snapshot.running or snapshot.finished) else ""
        text = f"{_sum(snapshot)}{waiting}"
        self._progress.update(self._all, description=text, total=snapshot.total, completed=snapshot.ended)
        current = {(step.job_id, step.stage, step.segment): step for step in snapshot.running[:20]}
        for key in self._steps.keys() - current.keys():
            self._progress.remove_task(self._steps.pop(key))
        for key, step in current.items():
            if key not in self._steps:
                self._steps[key] = self._progress.add_task("", total=None)
            label = " ".join(part for part in (step.job_id, step.stage, step.part, doing(step)) if part)
            self._progress.update(self._steps[key], description=label, total=step.steps or None, completed=step.step)


def display() -> Display:
    """The display that fits where the output goes."""
    return LiveDisplay() if sys.stderr.isatty() and output.is_terminal() else PlainDisplay()


def follow(
    poll: Callable[[], Snapshot],
    display: Display,
    *,
    until: Callable[[Snapshot], bool],
    wait: Callable[[float], bool],
    patience: Patience | None = None,
) -> Snapshot | None:
    """Show snapshots until one satisfies ``until``, or ``wait`` (seconds) answers True: asked to stop.

    With ``patience`` a database that is away is waited for. Returns the last snapshot, None where there was none.
    """
    last: Snapshot | None = None
    while True:
        snapshot = poll() if patience is None else patience.read(poll)
        if snapshot is not None:
            last = snapshot
            display.show(snapshot)
            if until(snapshot):
                return last
        if wait(POLL_S if snapshot is not None else RETRY_S):
            return last


def _sum(snapshot: Snapshot) -> str:
    states = {
        state: sum(batch.counts[state] for batch in snapshot.batches)
        for state in (snapshot.batches[0].counts if snapshot.batches else {})
    }
    text = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items() if count)
    scoring = f"; {snapshot.scoring} score steps to do" if snapshot.scoring else ""
    return f"{snapshot.ended}/{snapshot.total} done ({text}){scoring}" if text else "no jobs"


_LONG = (Phase.LIBRARIES, Phase.LOAD, Phase.WARM_UP)
"""Phases without steps that say how far they are."""


def doing(step: RunningView) -> str:
    """Return what a step does, with its time so far where no count of steps says how far it is."""
    if step.phase in _LONG and step.started_at is not None:
        return f"{step.doing}, {times.so_far(step.started_at)}"
    return step.doing or ""


def _describe(step: RunningView) -> str:
    progress = (doing(step), f"{step.step}/{step.steps}") if step.steps else ()
    return " ".join(part for part in (step.job_id, step.stage, step.part, *progress) if part)
