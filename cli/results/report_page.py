"""A batch's report as one HTML file without scripts or external resources; it contains its posters."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice

from cli.results.report import figures
from db.reading.marks import Mark, MarkKind, marks
from db.session import Database
from pipeline.encoding.pictures import small_poster
from pipeline.errors import NotFoundError, RetryableError
from pipeline.html import Card, render
from pipeline.states import JobState
from pipeline.storage import Storage
from service.gallery import Clip, clips_of
from service.gallery.media import AWAY, GONE
from service.views.base import when
from service.views.reports import ReportView, WorkerReportView

_ROW, _BAR = 34, 24
_LEFT, _PLOT, _TOP = 250, 720, 26
_FAILURES, _POSTERS, _LISTED = 200, 60, 100
"""The most failures, posters and marks that are shown: the page is to be opened by an e-mail program, too."""
_POSTER_WIDTH = 320
_WIDE = ("generating", "events")


@dataclass(frozen=True, slots=True)
class Contents:
    """What the page shows beside the report's figures."""

    marks: Sequence[Mark] = ()
    failures: Sequence[Clip] = ()
    cards: Sequence[Card] = ()


@dataclass(frozen=True, slots=True)
class _Bar:
    stage: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Placed:
    """A mark on a row of the timeline."""

    x: float
    kind: MarkKind
    text: str


@dataclass(frozen=True, slots=True)
class _Row:
    """A worker's row of the timeline."""

    name: str
    gpu_type: str
    top: int
    busy: str
    bars: Sequence[_Bar]
    marks: Sequence[_Placed] = field(default=())


def contents(database: Database, storage: Storage, batch_id: str) -> Contents:
    """Read what the page shows; a poster that cannot be read is shown as missing."""
    failed = (JobState.FAILED, JobState.BLOCKED)
    others = tuple(state for state in JobState if state not in failed)
    with database.reading() as session:
        restarts_and_resumes = marks(session, batch_id)
    posters = _Posters(storage)
    return Contents(
        marks=restarts_and_resumes,
        failures=list(islice(clips_of(database, batch_id, failed), _FAILURES)),
        cards=[posters.card(clip) for clip in islice(clips_of(database, batch_id, others), _POSTERS)],
    )


class _Posters:
    """Reads posters, small, as addresses that hold the picture."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._away = False

    def card(self, clip: Clip) -> Card:
        address, problem = None, None
        if (poster := clip.files.get("poster")) is not None:
            address, problem = self._read(poster.key)
        card = clip.card({} if address is None else {"poster": address}, missing=problem)
        return replace(card, href=None, command=clip.command)

    def _read(self, key: str) -> tuple[str | None, str | None]:
        if self._away:  # each further try would wait for as long as the first
            return None, AWAY
        try:
            data = small_poster(self._storage.read_bytes(key), _POSTER_WIDTH)
        except NotFoundError:
            return None, GONE
        except RetryableError:
            self._away = True
            return None, AWAY
        except OSError:
            return None, "the poster is damaged in the store"
        return f"data:image/webp;base64,{base64.b64encode(data).decode()}", None


def page(view: ReportView, shown: Contents) -> str:
    """Return the whole page."""
    return render(
        "report.html",
        title=f"Batch {view.batch.id} ({view.batch.name})",
        view=view,
        figures=[("jobs", _jobs(view)), *((name, value) for name, value in figures(view) if value is not None)],
        wide=_WIDE,
        rows=_rows(view, shown.marks),
        axis=_axis(view),
        left=_LEFT,
        plot=_PLOT,
        bar=_BAR,
        width=_LEFT + _PLOT + 70,
        height=_TOP + _ROW * len(view.workers) + 24,
        stages=_stages(view),
        gpus=_gpus(view),
        kinds=dict.fromkeys(mark.kind.value for mark in shown.marks),
        marks=[(when(mark.at), mark.kind.value, mark.stage.value, mark.worker, mark.job_id, mark.note)
               for mark in shown.marks[:_LISTED]],
        all_marks=len(shown.marks),
        failures=shown.failures,
        failed=sum(view.batch.counts[state] for state in (JobState.FAILED, JobState.BLOCKED)),
        cards=shown.cards,
    )  # fmt: skip


def _jobs(view: ReportView) -> str:
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in view.batch.counts.items() if count)
    return f"{view.batch.total}: {counts}"


def _axis(view: ReportView) -> list[tuple[float, str, str]]:
    """Return place, anchor and text of the marks below the timeline."""
    anchors = {0.0: "start", 1.0: "end"}
    return [
        (_LEFT + _PLOT * share, anchors.get(share, "middle"), f"{view.seconds * share:.0f} s")
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]


def _rows(view: ReportView, shown: Sequence[Mark]) -> list[_Row]:
    began = min((mark.at for mark in shown), default=0) if view.began_at is None else _ms(view.began_at)
    return [
        _Row(
            name=worker.worker if len(worker.worker) <= 34 else f"…{worker.worker[-33:]}",
            gpu_type=worker.gpu_type or "",
            top=_TOP + _ROW * number,
            busy=f"{worker.busy_share:.0%} of {worker.busy_of_seconds:.0f} s",
            bars=list(_bars(worker, _TOP + _ROW * number)),
            marks=[
                _Placed(
                    x=round(_LEFT + _PLOT * min(1.0, max(0.0, (mark.at - began) / 1000 / (view.seconds or 1.0))), 1),
                    kind=mark.kind,
                    text=f"{mark.kind.value}: {mark.stage.value} of {mark.job_id} {mark.note}"[:300],
                )
                for mark in shown
                if mark.worker in worker.names
            ],
        )
        for number, worker in enumerate(view.workers)
    ]


def _bars(worker: WorkerReportView, top: int) -> Iterator[_Bar]:
    """Yield a column for each span of time, as high as how much of it was worked; stages stand on each other."""
    spans = len(next(iter(worker.timeline.values())))
    step = _PLOT / spans
    for at in range(spans):
        shares = [(stage, values[at]) for stage, values in worker.timeline.items() if values[at] > 0]
        most = max(1.0, sum(value for _, value in shares))  # several at once share the bar's height
        y = float(top + _BAR)
        for stage, value in shares:
            height = _BAR * value / most
            y -= height
            yield _Bar(stage, round(_LEFT + at * step, 2), round(y, 2), round(step + 0.05, 2), round(height, 2))


def _ms(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp() * 1000


def _stages(view: ReportView) -> list[tuple[object, ...]]:
    return [
        (
            item.stage,
            item.attempts,
            f"{item.seconds:.1f}",
            None if item.mean_seconds is None else f"{item.mean_seconds:.3f}",
            item.continued_attempts,
            item.lost_attempts,
            f"{item.lost_seconds:.1f}",
        )
        for item in view.stages
    ]


def _gpus(view: ReportView) -> list[tuple[object, ...]]:
    return [
        (
            item.gpu_type,
            item.workers,
            f"{item.seconds:.1f}",
            None if item.price is None else f"{item.price:g}",
            None if item.cost is None else f"{item.cost:.4g}",
        )
        for item in view.gpus
    ]
