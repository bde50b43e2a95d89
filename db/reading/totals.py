"""The counters of metrics: adds measurements to totals, which nothing ever reduces.

What is shown is the totals and the measurements that are not in them yet, read at one instant; so a count never goes
back, whichever server is asked, and is that of the rows that were committed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import delete, literal, select
from sqlalchemy.orm import Session

from db import measurements
from db.base import insert_into
from db.clips import spending
from db.models import Batch, Job, Measurement, ScoreRun, StageRun, Step, Total
from db.session import now_ms
from pipeline.digests import canonical_json
from pipeline.states import AttemptOutcome, JobState, Stage

BUCKETS_S: tuple[float, ...] = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 14_400)
"""Upper bounds of the buckets of the histograms of attempts and clips."""
SUM = "sum"
"""The ``bucket`` of a histogram's sum."""
COUNTER = ""
"""The ``bucket`` of a counter."""
EVALUATION = "evaluation"
"""The ``stage`` of attempts at steps of evaluation runs."""
_AGAIN = (AttemptOutcome.RETRIED, AttemptOutcome.LEASE_ENDED, AttemptOutcome.REWOUND)
_PAGE = 1_000
_FOLDED_WITHIN_MS = 60_000
"""Dispatchers fold every few seconds."""
_LABEL_CHARS = 200
_MS = 1_000

Key = tuple[str, str, str]
"""Name, labels as JSON, bucket."""
Facts = Iterable[tuple[str, dict[str, Any]]]
"""Kind and data of measurements."""


def read(session: Session) -> dict[str, dict[str, dict[str, float]]]:
    """Values by name, labels and bucket, as of now; ``session`` must read one instant."""
    values: Counter[Key] = Counter()
    for total in session.execute(select(Total.name, Total.labels, Total.bucket, Total.value)):
        values[total.name, total.labels, total.bucket] += total.value
    values.update(_added_up(session, [tuple(row) for row in session.execute(_UNCOUNTED)], prices=None))
    by_name: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for (name, labels, bucket), value in sorted(values.items()):
        by_name[name][labels][bucket] = value
    return by_name


_UNCOUNTED = select(Measurement.kind, Measurement.data)


def fold(session: Session, prices: Mapping[str, float]) -> int:
    """Move a page of measurements into the totals; return how many there were. Several may do so at once.

    ``prices`` are those of the settings, for batches that have none of their own: a cost is counted with the prices of
    this moment, so that it does not change with them later.
    """
    page = select(Measurement.id).order_by(Measurement.id).limit(_PAGE).with_for_update(skip_locked=True)
    taken = session.execute(
        delete(Measurement)
        .where(Measurement.id.in_(page.scalar_subquery()))
        .returning(Measurement.kind, Measurement.data)
        .execution_options(synchronize_session=False)
    ).all()
    _add(session, _added_up(session, [tuple(row) for row in taken], prices=prices))
    return len(taken)


def is_behind(session: Session) -> bool:
    """Return whether measurements wait for so long that nobody seems to fold: no dispatcher is at work."""
    oldest = session.scalars(select(Measurement.at).order_by(Measurement.id).limit(1)).one_or_none()
    return oldest is not None and oldest < session.scalars(select(now_ms())).one() - _FOLDED_WITHIN_MS


def _add(session: Session, values: Mapping[Key, float]) -> None:
    """Add to the totals, in one order: of two that fold at once, neither holds what the other waits for."""
    if not values:
        return
    rows = [
        {"name": name, "labels": labels, "bucket": bucket, "value": float(value)}
        for (name, labels, bucket), value in sorted(values.items())
    ]
    statement = insert_into(session.get_bind().dialect.name, Total)
    added = statement.on_conflict_do_update(
        index_elements=["name", "labels", "bucket"], set_={"value": Total.value + statement.excluded.value}
    )
    session.connection().execute(added, rows)


def _added_up(session: Session, facts: Facts, *, prices: Mapping[str, float] | None) -> Counter[Key]:
    """Return what the facts add to each value; without ``prices``, to costs nothing."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for kind, data in facts:
        by_kind[kind].append(data)
    values: Counter[Key] = Counter()
    _count_attempts(session, by_kind[measurements.ATTEMPT], values, prices)
    _count_ended(session, by_kind[measurements.JOB], values)
    for data in by_kind[measurements.BATCH]:
        for preset, jobs in data["jobs"].items():
            count(values, "vgen_jobs_submitted", jobs, preset=preset)
    for data in by_kind[measurements.MODEL_LOAD]:
        count(values, "vgen_model_loads", preset=data["preset"])
    for data in by_kind[measurements.VALUES]:
        for name, labels, bucket, value in data["values"]:
            values[name, labels, bucket] += value
    return values


def _count_attempts(
    session: Session, facts: list[dict[str, Any]], values: Counter[Key], prices: Mapping[str, float] | None
) -> None:
    for evaluation, attempts in ((False, _OF_JOBS), (True, _OF_RUNS)):
        own = [fact for fact in facts if fact.get("evaluation", False) is evaluation]
        resumed = {(fact["step"], fact["attempt"]): fact.get("resumed", False) for fact in own}
        for step_ids in _pages(sorted({step_id for step_id, _ in resumed})):
            for run in session.execute(attempts.where(attempts.selected_columns.step_id.in_(step_ids))):
                if (run.step_id, run.attempt) in resumed:
                    _count_attempt(run, values, prices)
                    if resumed[run.step_id, run.attempt]:
                        count(values, "vgen_checkpoint_resumes")


_PRESET = Job.spec["preset"].as_string().label("preset")
_FACTS = ("step_id", "attempt", "queue", "outcome", "error_code", "started_at", "ended_at")
_OF_JOBS = (
    select(*(getattr(StageRun, name) for name in _FACTS), StageRun.stage, _PRESET, Job.created_at)
    .add_columns(Step.segment, Step.roll, Batch.owner, Batch.prices)
    .join(Step, Step.id == StageRun.step_id)
    .join(Job, Job.id == StageRun.job_id)
    .join(Batch, Batch.id == Job.batch_id)
)
_OF_RUNS = (
    select(*(getattr(ScoreRun, name) for name in _FACTS), literal(EVALUATION).label("stage"))
    .add_columns(literal("").label("preset"), Batch.owner, Batch.prices)
    .join(Batch, Batch.id == ScoreRun.batch_id)
)


def _count_attempt(run: Any, values: Counter[Key], prices: Mapping[str, float] | None) -> None:
    stage, outcome, gpu_type = str(run.stage), run.outcome.value, spending.type_of(run.queue)
    seconds = max(0, run.ended_at - run.started_at) / _MS
    count(values, "vgen_attempts", stage=stage, outcome=outcome)
    if run.outcome in _AGAIN:
        count(values, "vgen_retries", cause=run.error_code or outcome)
    if run.outcome is AttemptOutcome.DONE:
        labels = {"stage": stage, "preset": run.preset, "gpu_type": gpu_type or ""}
        observe(values, "vgen_stage_duration_seconds", seconds, **labels)
    if stage == Stage.GENERATE and (run.attempt, run.segment, run.roll) == (1, 0, 1):
        observe(values, "vgen_queue_wait_seconds", max(0, run.started_at - run.created_at) / _MS)
    if gpu_type is not None:
        count(values, "vgen_gpu_busy_seconds", seconds, gpu_type=gpu_type)
        count(values, "vgen_gpu_seconds", seconds, tenant=run.owner, preset=run.preset)
        if prices is not None and (price := spending.price_of(run.queue, run.prices or prices)):
            count(values, "vgen_cost", price * seconds * _MS / spending.HOUR_MS, tenant=run.owner)


def _count_ended(session: Session, facts: list[dict[str, Any]], values: Counter[Key]) -> None:
    preset = Job.spec["preset"].as_string()
    jobs: dict[str, Any] = {}
    for ids in _pages(sorted({fact["job"] for fact in facts})):
        query = select(Job.id, preset.label("preset"), Job.created_at, Job.finished_at).where(Job.id.in_(ids))
        jobs |= {job.id: job for job in session.execute(query)}
    for fact in facts:
        job, outcome = jobs[fact["job"]], fact["state"]
        count(values, "vgen_jobs_finished", outcome=outcome, error_code=fact["code"] or "", preset=job.preset)
        if outcome == JobState.SUCCEEDED:  # which no job leaves
            seconds = max(0, job.finished_at - job.created_at) / _MS
            observe(values, "vgen_clip_duration_seconds", seconds, preset=job.preset)


def _pages(ids: list[Any]) -> Iterable[list[Any]]:
    bounds = [*range(0, len(ids), _PAGE), len(ids)]
    return (ids[first:end] for first, end in pairwise(bounds))


def count(values: Counter[Key], name: str, by: float = 1, **labels: str) -> None:
    """Add to a counter."""
    values[name, _as_text(labels), COUNTER] += by  # type: ignore[assignment]


def observe(
    values: Counter[Key], name: str, seconds: float, *, buckets: Sequence[float] = BUCKETS_S, **labels: str
) -> None:
    """Add to a histogram."""
    text = _as_text(labels)
    bound = next((str(bound) for bound in buckets if seconds <= bound), "+Inf")
    values[name, text, bound] += 1
    values[name, text, SUM] += seconds  # type: ignore[assignment]


def _as_text(labels: Mapping[str, str]) -> str:
    return canonical_json({name: value[:_LABEL_CHARS] for name, value in labels.items()})


def labels_of(text: str) -> dict[str, str]:
    """The labels that a value was stored with."""
    labels: dict[str, str] = json.loads(text)
    return labels
