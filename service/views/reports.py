"""The output of `vgen report`: plain values made of a batch's timeline."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field
from sqlalchemy.orm import Session

from db.clips import batches
from db.clips.spending import type_of
from db.models import Batch
from db.reading import past_estimates, reports
from db.reading.reports import KEPT, Clips, Timeline, Work
from pipeline.states import Stage
from service.views.base import View, when
from service.views.batches import BatchView, batch_view

HOUR_S = 3600
_PIPELINE = ("encode_text_and_first_step", "denoise", "decode")
"""Parts of a generation that a plain call of the pipeline has too."""


class StageReportView(View):
    """What one stage took."""

    stage: str
    attempts: int
    seconds: float = Field(description="Seconds of all attempts that have ended.")
    mean_seconds: float | None = Field(description="Mean of the attempts whose result was recorded.")
    continued_attempts: int = Field(description="Interrupted attempts that a later one went on from: not lost.")
    continued_seconds: float
    lost_attempts: int = Field(description="Attempts of which nothing was kept: failed, stopped, taken back.")
    lost_seconds: float
    outcomes: dict[str, int] = Field(description="Attempts by how they ended.")


class WorkerReportView(View):
    """One worker's part in the batch; one that was started again is the same."""

    worker: str = Field(description="Its role and host.")
    names: list[str] = Field(description="Its names: another one each time it is started.")
    gpu_type: str | None = Field(description="GPU type of a worker that generated; null for others.")
    first_at: str = Field(description="ISO 8601, UTC.")
    last_at: str
    attempts: int
    seconds: dict[str, float] = Field(description="Seconds at work by stage.")
    lost_seconds: float
    busy_share: float = Field(
        description="Share of busy_of_seconds that it worked for the batch; of a worker with a GPU, that it generated."
    )
    busy_of_seconds: float = Field(
        description="What the shares are of: with a GPU the seconds from the first attempt at generating to the end of "
        "the work on clips, else the report's seconds."
    )
    other_share: float = Field(description="The share given to other batches, on GPU queues.")
    timeline: dict[str, list[float]] = Field(
        description="By stage, the busy share of each span of time; more than 1 where it did several steps at once."
    )


class GpuReportView(View):
    """What one GPU type was used for, and what that cost."""

    gpu_type: str
    workers: int = Field(description="GPUs of this type that worked.")
    seconds: float = Field(description="Seconds of all attempts at generating, and of what else its queue held.")
    price: float | None = Field(description="Price of an hour; null where VGEN_PRICES has none.")
    cost: float | None


class ReportView(View):
    """Where a batch's time went."""

    batch: BatchView
    began_at: str | None = Field(description="When its first attempt began; null when there was none.")
    ended_at: str | None = Field(description="When its last attempt ended, or now while any is running.")
    seconds: float = Field(description="Seconds from the first to the last.")
    span_seconds: float = Field(description="Seconds of each value of the workers' timelines.")
    estimated_gpu_seconds: float | None = Field(description="What was estimated at submit; null where nothing was.")
    clips: int = Field(description="Jobs that succeeded.")
    seconds_per_clip: float | None = Field(description="Wall seconds over clips.")
    gpu_seconds_per_clip: float | None
    cost_per_clip: float | None
    cost: float | None = Field(description="Null where a GPU type has no price.")
    waiting_seconds_per_job: float | None = Field(
        description="Seconds from submit to end, less the work on it: queued, held, paused, between stages."
    )
    gpu_workers: int = Field(description="GPUs that generated; one whose worker was started again is one.")
    gpu_busy_share: float | None = Field(
        description="The share of their time (gpu_workers times gpu_busy_of_seconds) in which they generated for it."
    )
    gpu_busy_of_seconds: float | None = Field(
        description="Seconds from the first attempt at generating to the end of the work on clips."
    )
    line_efficiency: float | None = Field(
        description="Bare pipeline seconds over GPU workers times seconds, from the first attempt at generating to the "
        "end; null where generators reported no times."
    )
    generating: dict[str, float] = Field(
        description="Seconds of the attempts whose frames were recorded, by part; `around`: all but the model."
    )
    gpus: list[GpuReportView]
    stages: list[StageReportView]
    workers: list[WorkerReportView]
    events: dict[str, int] = Field(description="How often each kind of event happened.")
    notes: list[str] = Field(description="Remarks on the figures.")


def report_of(session: Session, batch: Batch, prices: Mapping[str, float]) -> ReportView:
    """The batch's report as its rows are now; ``prices`` of an hour by GPU type."""
    view = batch_view(batch, batches.counts(session, [batch.id])[batch.id])
    timeline = reports.timeline(session, batch)
    happened = reports.event_counts(session, batch.id)
    if timeline is None:
        estimated = past_estimates.kept(session, batch.id)
        return _empty(view, happened).model_copy(update={"estimated_gpu_seconds": estimated})
    ended = reports.clips(session, batch.id)
    queues = sorted({work.queue for work in timeline.work if type_of(work.queue)})
    others = reports.other_work(session, batch.id, queues, timeline.began_at, timeline.ended_at)
    parts = reports.pipeline_seconds(session, batch.id)
    gpu_work = [work for work in timeline.work if type_of(work.queue)]
    gpus = _gpus(gpu_work, prices, timeline.places)
    cost = None if any(gpu.cost is None for gpu in gpus) or not gpus else sum(gpu.cost or 0.0 for gpu in gpus)
    return ReportView(
        batch=view,
        began_at=when(timeline.began_at),
        ended_at=when(timeline.ended_at),
        seconds=_seconds(timeline.ended_at - timeline.began_at),
        span_seconds=_seconds(timeline.span_ms),
        estimated_gpu_seconds=past_estimates.kept(session, batch.id),
        clips=ended.succeeded,
        seconds_per_clip=_over(_seconds(timeline.made_at - timeline.began_at), ended.succeeded),
        gpu_seconds_per_clip=_over(sum(gpu.seconds for gpu in gpus), ended.succeeded),
        cost_per_clip=None if cost is None else _over(cost, ended.succeeded),
        cost=cost,
        waiting_seconds_per_job=_waiting(timeline, ended),
        **_efficiency(timeline, parts),
        generating=_generating(gpu_work, parts),
        gpus=gpus,
        stages=_stages(timeline.work),
        workers=_workers(timeline, others),
        events=happened,
        notes=_notes(view, timeline, happened, cost, gpus),
    )


def _empty(view: BatchView, happened: dict[str, int]) -> ReportView:
    removed = "history_removed" in happened
    note = "its attempts were removed (VGEN_RETENTION_HISTORY_DAYS)" if removed else "nothing of it has run yet"
    times = ("began_at", "ended_at", "seconds_per_clip", "gpu_seconds_per_clip", "waiting_seconds_per_job")
    shares = ("gpu_busy_share", "gpu_busy_of_seconds", "line_efficiency")
    nothing = dict.fromkeys((*times, "estimated_gpu_seconds", "cost", "cost_per_clip", *shares))
    return ReportView.model_validate(
        {
            **nothing,
            **{name: [] for name in ("gpus", "stages", "workers")},
            "batch": view,
            "seconds": 0.0,
            "span_seconds": 0.0,
            "clips": view.counts.get("succeeded", 0),
            "gpu_workers": 0,
            "generating": {},
            "events": happened,
            "notes": [note],
        }
    )


def _seconds(ms: float) -> float:
    return round(ms / 1000, 3)


def _over(value: float, count: int) -> float | None:
    return round(value / count, 6) if count else None


def _lost(work: Work) -> bool:
    return work.outcome is not None and work.outcome not in KEPT and not work.continued


def _gpus(gpu_work: Sequence[Work], prices: Mapping[str, float], places: Mapping[str, str]) -> list[GpuReportView]:
    ms: Counter[str] = Counter()
    workers: dict[str, set[str]] = {}
    for work in gpu_work:
        gpu_type = type_of(work.queue) or ""
        ms[gpu_type] += work.ms
        workers.setdefault(gpu_type, set()).add(places[work.worker])
    return [
        GpuReportView(
            gpu_type=gpu_type,
            workers=len(workers[gpu_type]),
            seconds=_seconds(ms[gpu_type]),
            price=prices.get(gpu_type),
            cost=None if gpu_type not in prices else ms[gpu_type] / 1000 * prices[gpu_type] / HOUR_S,
        )
        for gpu_type in sorted(ms)
    ]


def _waiting(timeline: Timeline, ended: Clips) -> float | None:
    """Work that still runs belongs to jobs that have not ended."""
    worked = sum(work.ms for work in timeline.of_jobs if work.outcome is not None)
    return _over(max(0.0, (ended.ms - worked) / 1000), ended.ended)


def _efficiency(timeline: Timeline, parts: Mapping[str, float]) -> dict[str, float | int | None]:
    generating = [work for work in timeline.work if work.stage is Stage.GENERATE]
    workers = len({timeline.places[work.worker] for work in generating})
    window_ms = _generating_ms(timeline)
    if window_ms is None:
        return {"gpu_workers": 0, "gpu_busy_share": None, "gpu_busy_of_seconds": None, "line_efficiency": None}
    wall_s = window_ms / 1000 * workers
    bare = sum(parts.get(part, 0.0) for part in _PIPELINE)
    return {
        "gpu_workers": workers,
        "gpu_busy_of_seconds": _seconds(window_ms),
        "gpu_busy_share": round(sum(work.ms for work in generating) / 1000 / wall_s, 4),
        "line_efficiency": round(bare / wall_s, 4) if bare else None,
    }


def _generating_ms(timeline: Timeline) -> int | None:
    """The time from the first attempt at generating to the end of the work on clips; None where there was none."""
    firsts = [work.first_at for work in timeline.work if work.stage is Stage.GENERATE]
    return max(1, timeline.made_at - min(firsts)) if firsts else None


def _generating(gpu_work: Sequence[Work], parts: Mapping[str, float]) -> dict[str, float]:
    recorded = sum(work.ms for work in gpu_work if work.stage is Stage.GENERATE and work.outcome in KEPT) / 1000
    rounded = {part: round(value, 3) for part, value in parts.items()}
    return rounded | {"around": round(max(0.0, recorded - sum(parts.values())), 3)} if rounded else {}


def _stages(work: Sequence[Work]) -> list[StageReportView]:
    views = []
    for stage in Stage:
        of_stage = [item for item in work if item.stage is stage and item.outcome is not None]
        if not of_stage:
            continue
        recorded = [item for item in of_stage if item.outcome in KEPT]
        continued = [item for item in of_stage if item.continued]
        lost = [item for item in of_stage if _lost(item)]
        outcomes: Counter[str] = Counter()
        for item in of_stage:
            outcomes[str(item.outcome)] += item.attempts
        views.append(
            StageReportView(
                stage=stage.value,
                attempts=sum(item.attempts for item in of_stage),
                seconds=_seconds(sum(item.ms for item in of_stage)),
                mean_seconds=_over(sum(item.ms for item in recorded) / 1000, sum(item.attempts for item in recorded)),
                continued_attempts=sum(item.attempts for item in continued),
                continued_seconds=_seconds(sum(item.ms for item in continued)),
                lost_attempts=sum(item.attempts for item in lost),
                lost_seconds=_seconds(sum(item.ms for item in lost)),
                outcomes=dict(sorted(outcomes.items())),
            )
        )
    return views


def _workers(timeline: Timeline, others: Mapping[str, int]) -> list[WorkerReportView]:
    total_ms = timeline.ended_at - timeline.began_at
    generating_ms = _generating_ms(timeline) or total_ms
    by_place: dict[str, list[Work]] = {}
    for item in timeline.work:
        by_place.setdefault(timeline.places[item.worker], []).append(item)
    views = []
    for place, items in by_place.items():
        stages: dict[str, list[int]] = {}
        ms: Counter[str] = Counter()
        for item in items:
            spans = stages.setdefault(item.stage.value, [0] * len(item.spans_ms))
            stages[item.stage.value] = [a + b for a, b in zip(spans, item.spans_ms, strict=True)]
            ms[item.stage.value] += item.ms
        names = {item.worker for item in items}
        types = sorted({gpu for item in items if (gpu := type_of(item.queue)) is not None})
        of_ms = generating_ms if types else total_ms
        views.append(
            WorkerReportView(
                worker=place or "unknown",
                names=sorted(names),
                gpu_type=", ".join(types) or None,
                first_at=when(min(item.first_at for item in items)),
                last_at=when(max(item.last_at for item in items)),
                attempts=sum(item.attempts for item in items),
                seconds={stage: _seconds(value) for stage, value in ms.items()},
                lost_seconds=_seconds(sum(item.ms for item in items if _lost(item))),
                busy_share=round((ms[Stage.GENERATE.value] if types else sum(ms.values())) / of_ms, 4),
                busy_of_seconds=_seconds(of_ms),
                other_share=round(sum(others.get(name, 0) for name in names) / of_ms, 4),
                timeline={
                    stage: [round(value / timeline.span_ms, 3) for value in spans] for stage, spans in stages.items()
                },
            )
        )
    return sorted(views, key=lambda view: (view.gpu_type is None, view.worker))


def _notes(
    view: BatchView, timeline: Timeline, happened: Mapping[str, int], cost: float | None, gpus: Sequence[GpuReportView]
) -> list[str]:
    notes = []
    if not view.finished:
        notes.append("it has not ended: attempts that run now count until now")
    if cost is None and gpus:
        missing = ", ".join(gpu.gpu_type for gpu in gpus if gpu.price is None)
        notes.append(f"no cost: VGEN_PRICES has no price of {missing}")
    if "history_removed" in happened:
        notes.append("attempts of its ended jobs were removed (VGEN_RETENTION_HISTORY_DAYS)")
    if any(work.continued for work in timeline.work):
        notes.append("a clip that went on from a checkpoint counts in the efficiency with the part that was made last")
        notes.append("of a killed attempt, what came after its last checkpoint is lost and not counted as such")
    return notes
