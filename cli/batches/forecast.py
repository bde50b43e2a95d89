"""Puts a batch's forecast into words, for `status`, `submit` and `watch`."""

import time
from collections.abc import Sequence
from dataclasses import replace

from cli import output, times
from cli.batches import reasons
from cli.batches.follow import Snapshot
from db.clips import batches
from db.reading.estimates import Halt
from db.reading.reasons import Code, Needs
from db.session import Database
from pipeline.settings import Settings
from service.forecast import of_batch
from service.views.batches import BatchView, OutlookView
from service.views.waiting import WaitView
from service.waiting import waits_of

_POLL_S = 5.0
_IDLE_POLL_S = 2.0
"""While nothing runs, what is waited for is all there is to show."""
_PAUSES = frozenset({Code.ALL_PAUSED, Code.BATCH_PAUSED, Code.OVER_BUDGET})


def sentences(batch: BatchView, outlook: OutlookView, waits: Sequence[WaitView] = ()) -> list[str]:
    """Return what a person should know, the most urgent first; what ``waits`` say already is left out."""
    texts = []
    codes = {(wait.stage, wait.reason.code) for wait in waits}
    if outlook.stopped is not None and not _PAUSES.intersection(code for _, code in codes):
        texts.append(f"stopped: {outlook.stopped}; {_mend(outlook.stopped, batch)}")
    known = {stage for stage, code in codes if code == Code.NO_WORKER}
    nobody = any(code == Code.NOBODY_AT_WORK for _, code in codes)
    texts += [item.reason for item in outlook.stuck if not nobody and item.stage not in known]
    if batch.deadline_at is not None and not batch.finished:
        texts.append(_deadline(batch.deadline_at, outlook))
    return texts


def _mend(halt: str, batch: BatchView) -> str:
    if halt == Halt.BUDGET:
        return f"`vgen budget {batch.id} --max-gpu-hours N` or `--max-cost N` raises it"
    return f"`vgen resume {'--all' if halt == Halt.EVERYTHING else batch.id}` resumes it"


def _deadline(deadline_at: str, outlook: OutlookView) -> str:
    deadline = f"deadline {times.clock(deadline_at)}"
    if outlook.expected_at is None and outlook.deadline_at_risk:
        return f"{deadline}: it has passed"
    if outlook.expected_at is None:
        return f"{deadline}: no estimate yet: {outlook.no_estimate}"
    risk = " at risk" if outlook.deadline_at_risk else ""
    return f"{deadline}{risk}: {times.left(outlook.expected_at)} as it goes now"


class News:
    """Prints each urgent notice once, while a batch is watched; for the first ``start_s`` no worker is missed."""

    def __init__(self, database: Database, settings: Settings, *, start_s: float = 0.0) -> None:
        self._database = database
        self._settings = settings
        self._shown: set[str] = set()
        self._waiting: list[str] = []
        self._starts_until = time.monotonic() + start_s
        self._polled_at: float | None = None

    def report(self, snapshot: Snapshot) -> Snapshot:
        """Print new notices, at most every few seconds, and return the snapshot."""
        pause_s = _POLL_S if snapshot.running else _IDLE_POLL_S
        if self._polled_at is None or time.monotonic() - self._polled_at >= pause_s:
            self._polled_at, self._waiting = time.monotonic(), []
            urgent = self._urgent(snapshot)
            for key, text in urgent.items():
                if key not in self._shown:
                    output.notice(text)
            self._shown = set(urgent)
        return replace(snapshot, waiting=tuple(self._waiting))

    def _urgent(self, snapshot: Snapshot) -> dict[str, str]:
        """Return the notices, each by what stays the same of it while the time goes on."""
        texts: dict[str, str] = {}
        with self._database.reading() as session:
            for view in snapshot.batches:
                if not view.finished:
                    row = batches.get(session, view.id)
                    waits = waits_of(session, row, self._settings)
                    self._waiting += reasons.of_waits(waits) if not self._starting(waits) else ["starting the workers"]
                    texts |= self._of(of_batch(session, row, self._settings), view, waits)
        return texts

    def _starting(self, waits: Sequence[WaitView]) -> bool:
        """Whether nobody is at work because the workers of this process are on their way."""
        nobody = any(wait.reason.code == Code.NOBODY_AT_WORK for wait in waits)
        return nobody and time.monotonic() < self._starts_until

    def _of(self, outlook: OutlookView, batch: BatchView, waits: Sequence[WaitView]) -> dict[str, str]:
        started = time.monotonic() < self._starts_until
        texts = {}
        for wait in waits:
            passing = wait.reason.needs == Needs.NOTHING or (started and wait.reason.needs == Needs.WORKER)
            if not passing:
                [text] = reasons.of_waits([wait])
                texts[f"{batch.id} {wait.stage} {wait.reason.code}"] = f"batch {batch.id}: {text}"
        plain = outlook.model_copy(update={"stopped": None})
        undated = batch.model_copy(update={"deadline_at": None})
        texts |= {text: f"batch {batch.id}: {text}" for text in sentences(undated, plain, waits)}
        if outlook.deadline_at_risk:
            texts[f"{batch.id} deadline"] = f"batch {batch.id}: {_deadline(batch.deadline_at or '', outlook)}"
        return texts
