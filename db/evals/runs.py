"""Evaluation runs and their scores: what was to be scored, and whether all of it was."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from sqlalchemy import Subquery, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from db import events
from db.evals import score_steps
from db.evals.identity import identities
from db.evals.making import making_of
from db.models import ArtifactRow, EvalRun, Job, Score, StageRun, Step
from db.session import now_ms
from pipeline.errors import NotFoundError
from pipeline.ids import new_batch_id
from pipeline.outputs import GenerateOutput
from pipeline.seeds import roll_seed
from pipeline.spec import SUITE_ENTRY_LABEL
from pipeline.states import TERMINAL_JOB_STATES, AttemptOutcome, EvalState, JobState, Stage, StepState
from pipeline.work import UNABLE

VERDICT = "verdict"
ACCEPTED = "accepted"
"""The field of a verdict that says who accepted the run, when (milliseconds since 1970) and why."""
"""The key of a run's summary that holds the result of its comparison."""
RESCORE = "nightly-rescore"
"""The kind of a run that scores the clips of a run that passed once more, by the scorer of a later night."""
_SHORTCOMINGS = {
    "missing_clips": "clips are missing",
    "unscored_clips": "clips have no score",
    "unread_clips": "clips could not be read",
    "failed_steps": "scoring steps failed",
    "failed_scores": "scores are missing because a model failed",
    "metrics_without_weights": "metrics lack their weights",
}
"""What a run's summary counts, in words."""
DETECTABLE = "detectable"
"""The key of a nightly run's suite that holds what the suite can detect, a sentence for all metrics of one power."""


def of_jobs(session: Session, job_ids: Sequence[str], *, current: bool = False) -> dict[str, list[Score]]:
    """Scores by job, in the order of rolls and metrics; of each roll and metric the newest scorer's.

    One that had no means to score takes no score away that another gave. ``current`` leaves out the scores of rolls
    before the job's current one.
    """
    query = select(Score).where(Score.job_id.in_(job_ids))
    if current:
        query = query.join(Job, (Job.id == Score.job_id) & (Job.roll == Score.roll))
    newest: dict[tuple[str, int, str], Score] = {}
    for row in session.scalars(
        query.order_by(Score.job_id, Score.roll, Score.metric, Score.scored_at, Score.scorer_digest.desc())
    ):
        key = (row.job_id, row.roll, row.metric)
        if key not in newest or not row.details.get(UNABLE):
            newest[key] = row
    by_job: dict[str, list[Score]] = {}
    for (job_id, _, _), row in newest.items():
        by_job.setdefault(job_id, []).append(row)
    return by_job


def rolls_of_batch(session: Session, batch_id: str) -> dict[int, int]:
    """Jobs of the batch by their roll."""
    rows = session.execute(
        select(Job.roll, func.count()).where(Job.batch_id == batch_id).group_by(Job.roll).order_by(Job.roll)
    )
    return {row[0]: row[1] for row in rows}


def means(session: Session, batch_id: str) -> dict[str, tuple[int, int, float | None, int]]:
    """(scored, not scored, mean, failed) by metric, of the current rolls' scores; of each the newest scorer's."""
    of = _newest_scores(batch_id)
    failed = func.count().filter(~of.c.passed)
    rows = session.execute(
        select(of.c.metric, func.count(of.c.score), func.count(of.c.reason), func.avg(of.c.score), failed)
        .where(of.c.place == 1)
        .group_by(of.c.metric)
        .order_by(of.c.metric)
    )
    return {metric: (scored, missing, mean, wrong) for metric, scored, missing, mean, wrong in rows}


def _newest_scores(batch_id: str, *, whoever: bool = False) -> Subquery:
    """Scores of the current rolls, ``place`` 1 being the newest of a job and metric; ``broke`` where a model failed.

    One that had no means to score (``unable``) comes after all others, but where the last is wanted, ``whoever`` it is.
    """
    unable = func.coalesce(Score.details[UNABLE].as_boolean(), False)
    order = (Score.scored_at.desc(), Score.scorer_digest)
    newest = (
        func.row_number()
        .over(partition_by=(Score.job_id, Score.metric), order_by=order if whoever else (unable, *order))
        .label("place")
    )
    broke = Score.details["failed"].as_boolean().label("broke")
    return (
        select(Score.metric, Score.score, Score.reason, Score.passed, newest, broke, unable.label("unable"))
        .join(Job, (Job.id == Score.job_id) & (Job.roll == Score.roll))
        .where(Job.batch_id == batch_id)
        .subquery()
    )


def open_run(
    session: Session, batch_id: str, *, kind: str, metrics: Sequence[str], suite: Mapping[str, Any] | None = None
) -> str:
    """Begin an evaluation run over all jobs of a batch; its id."""
    run_id = f"e{new_batch_id()}"
    expected = session.scalars(select(func.count()).select_from(Job).where(Job.batch_id == batch_id)).one()
    session.add(
        EvalRun(
            id=run_id,
            batch_id=batch_id,
            kind=kind,
            metrics=list(metrics),
            suite=None if suite is None else dict(suite),
            expected=expected,
            state=EvalState.OPEN,
            created_at=session.scalars(select(now_ms())).one(),
        )
    )
    session.flush()
    events.record(session, "eval_started", batch_id=batch_id, run=run_id, eval=kind, expected=expected)
    return run_id


def get_run(session: Session, run_id: str) -> EvalRun:
    """Raises NotFoundError."""
    run = session.get(EvalRun, run_id)
    if run is None:
        raise NotFoundError(f"evaluation run {run_id!r} does not exist; `vgen eval runs` shows them")
    return run


def runs(
    session: Session, *, batch_id: str | None = None, kind: str | None = None, limit: int = 50
) -> Sequence[EvalRun]:
    """Evaluation runs, newest first; only those of one batch or of one kind where these are given."""
    query = select(EvalRun).order_by(EvalRun.id.desc()).limit(limit)
    if batch_id is not None:
        query = query.where(EvalRun.batch_id == batch_id)
    if kind is not None:
        query = query.where(EvalRun.kind == kind)
    return session.scalars(query).all()


def has_every_clip(session: Session, run: EvalRun) -> bool:
    """Return whether a published video is recorded for every job of the run: deleting a clip takes its record away."""
    query = (
        select(func.count(Job.id.distinct()))
        .join(ArtifactRow, (ArtifactRow.job_id == Job.id) & (ArtifactRow.kind == "video"))
        .where(Job.batch_id == run.batch_id, Job.state == JobState.SUCCEEDED)
    )
    return session.scalars(query).one() >= run.expected


def close_run(
    session: Session, run_id: str, *, complete: bool, summary: Mapping[str, Any] | None = None
) -> EvalState | None:
    """End a run as complete or incomplete. None when it had ended before: of two that end it, one does."""
    state = EvalState.COMPLETE if complete else EvalState.INCOMPLETE
    ended = session.execute(
        update(EvalRun)
        .where(EvalRun.id == run_id, EvalRun.state == EvalState.OPEN)
        .values(state=state, finished_at=now_ms(), summary=None if summary is None else dict(summary))
        .returning(EvalRun.batch_id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if ended is None:
        return None
    events.record(session, "eval_ended", batch_id=ended.batch_id, run=run_id, state=state.value)
    return state


def shortcomings(summary: Mapping[str, Any]) -> list[str]:
    """What keeps a run from being complete, by its summary, as ``2 clips are missing``; empty where nothing does."""
    return [f"{summary[name]} {words}" for name, words in _SHORTCOMINGS.items() if summary.get(name)]


def records_of(session: Session, batch_id: str, metrics: Container[str] | None = None) -> list[dict[str, Any]]:
    """The published clips of a batch as records of a score file: ``{video, entry, seed, prompt, pixels, scores}``.

    ``made`` is how each was made (``db.evals.making``), ``poster`` the key of its picture.
    ``metrics`` leaves out the scores of others. ``pixels`` is the digest of ``db.evals.identity``: of all that people
    see and hear of the clip.
    """
    poster = aliased(ArtifactRow)
    rows = session.execute(
        select(Job.id, Job.spec, Job.roll, ArtifactRow.key, poster.key.label("poster"))
        .join(ArtifactRow, (ArtifactRow.job_id == Job.id) & (ArtifactRow.kind == "video"))
        .outerjoin(poster, (poster.job_id == Job.id) & (poster.kind == "poster"))
        .where(Job.batch_id == batch_id, Job.state == JobState.SUCCEEDED)
        .order_by(Job.seq)
    ).all()
    making = making_of(session, batch_id)
    scores = of_jobs(session, [row.id for row in rows], current=True)
    same = identities(session, batch_id)
    records = []
    for job_id, spec, roll, key, poster_key in rows:
        entry = entry_label(spec.get("labels", {}))
        record: dict[str, Any] = {
            "video": key,
            "job": job_id,
            "seed": roll_seed(spec["seed"], roll),
            "pixels": same.get(job_id),
        }
        record |= {"prompt": spec["prompt"], "made": making.get(job_id, {})}
        if poster_key is not None:
            record["poster"] = poster_key
        if entry is not None:
            record["entry"] = entry
        wanted = [score for score in scores.get(job_id, []) if metrics is None or score.metric in metrics]
        records.append({**record, "scores": {score.metric: _shown(score) for score in wanted}})
    return records


def entry_label(labels: Mapping[str, str]) -> int | None:
    """The entry of a suite that a job belongs to, by the label that ``vgen eval suite`` gave it."""
    text = labels.get(SUITE_ENTRY_LABEL, "")
    return int(text) if text.isdecimal() else None


def _shown(row: Score) -> dict[str, Any]:
    details: dict[str, Any] = dict(row.details)
    if row.score is None:
        details["reason"] = row.reason
    else:
        details["scorer"] = row.scorer
    if row.passed is not None:
        details["passed"] = row.passed
    return {"name": row.metric, "score": row.score, "details": details}


def add_verdict(session: Session, run_id: str, verdict: Mapping[str, Any]) -> bool:
    """Store the verdict on a run that has ended. False if it has one already: of two callers, one stores it."""
    run = session.scalars(
        select(EvalRun).where(EvalRun.id == run_id).with_for_update().execution_options(populate_existing=True)
    ).one()
    if VERDICT in (run.summary or {}):
        return False
    run.summary = {**(run.summary or {}), VERDICT: dict(verdict)}
    session.flush()
    events.record(session, "eval_verdict", batch_id=run.batch_id, run=run_id, state=verdict["state"])
    return True


def accept(session: Session, run_id: str, *, by: str, reason: str | None) -> bool:
    """Note in a run's verdict that a person accepted it. False where somebody has done so before."""
    run = session.scalars(
        select(EvalRun).where(EvalRun.id == run_id).with_for_update().execution_options(populate_existing=True)
    ).one()
    verdict = dict((run.summary or {})[VERDICT])
    if ACCEPTED in verdict:
        return False
    verdict[ACCEPTED] = {"by": by, "at": session.scalars(select(now_ms())).one(), "reason": reason}
    run.summary = {**(run.summary or {}), VERDICT: verdict}
    session.flush()
    events.record(session, "eval_accepted", batch_id=run.batch_id, run=run_id, by=by)
    return True


def unjudged(session: Session, kind: str) -> list[str]:
    """Runs of that kind that have ended and have no verdict, oldest first."""
    query = select(EvalRun).where(EvalRun.kind == kind, EvalRun.state != EvalState.OPEN).order_by(EvalRun.id)
    return [run.id for run in session.scalars(query) if VERDICT not in (run.summary or {})]


def speeds(session: Session, batch_id: str) -> list[tuple[str, str, float, int | None]]:
    """(preset, GPU type, mean seconds of a generation, most bytes) of the batch's current rolls, one segment each."""
    rows = session.execute(
        select(Job.spec["preset"].as_string(), Step.output, StageRun.ended_at - StageRun.started_at)
        .join(Step, (Step.job_id == Job.id) & (Step.roll == Job.roll) & (Step.stage == Stage.GENERATE))
        .join(StageRun, (StageRun.step_id == Step.id) & (StageRun.attempt == Step.attempt))
        .where(Job.batch_id == batch_id, Step.state == StepState.DONE, StageRun.outcome == AttemptOutcome.DONE)
    )
    samples: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for preset, output, ms in rows:
        generated = GenerateOutput.from_row(output)
        times, sizes = samples.setdefault((preset, (generated and generated.gpu_type) or "cpu"), ([], []))
        times.append(ms)
        if generated is not None and generated.peak_memory_bytes is not None:
            sizes.append(generated.peak_memory_bytes)
    return [
        (preset, gpu_type, sum(times) / len(times) / 1000, max(sizes, default=None))
        for (preset, gpu_type), (times, sizes) in sorted(samples.items())
    ]


_SOME_OPEN = select(exists().where(EvalRun.state == EvalState.OPEN))


def some_open(session: Session) -> bool:
    """Return whether an evaluation run is open. Otherwise ``settle`` has nothing to do."""
    return bool(session.connection().execute(_SOME_OPEN).scalar())


def settle(session: Session) -> list[str]:
    """End the runs whose batch and whose steps have ended; the runs' ids.

    Complete is one of which every job has a clip, every clip could be read and has scores, no step or model failed, and
    no metric that was asked for lacked its weights.
    """
    score_steps.promote_ready(session)
    open_jobs = exists().where(Job.batch_id == EvalRun.batch_id, Job.state.not_in(TERMINAL_JOB_STATES))
    over = session.execute(
        select(EvalRun.id, EvalRun.batch_id)
        .where(EvalRun.state == EvalState.OPEN, ~open_jobs, ~score_steps.unfinished_of(EvalRun))
        .order_by(EvalRun.id)
    ).all()
    ended = []
    for run_id, batch_id in over:
        _, missing = clips_left(session, batch_id)
        unscored = _unscored(session, batch_id)
        failed, unread = score_steps.outcome(session, run_id)
        summary = {"missing_clips": missing, "unscored_clips": unscored}
        summary |= {"unread_clips": unread, "failed_steps": failed, **_shortcomings(session, run_id, batch_id)}
        if close_run(session, run_id, complete=not any(summary.values()), summary=summary) is not None:
            ended.append(run_id)
    return ended


def _shortcomings(session: Session, run_id: str, batch_id: str) -> dict[str, int]:
    """What keeps a run from being complete beside clips and steps; only what there is any of.

    ``failed_scores`` are those that a model's failure cost. ``metrics_without_weights`` are metrics that scored no clip
    for want of weights: those that were named, and those of a group of which that holds for all that need any. Nights
    are judged by the metrics that gate, whatever else is there; what scores their baselines again is not.
    """
    # It brings numpy, which `vgen --help` and `vgen status` need not load.
    from pipeline.scoring.registry import METRICS, counted_as_lacking, is_known, named  # noqa: PLC0415

    run = get_run(session, run_id)
    of = _newest_scores(batch_id, whoever=True)
    rows = session.execute(
        select(of.c.metric, func.count(of.c.score), func.count().filter(of.c.unable), func.count().filter(of.c.broke))
        .where(of.c.place == 1)
        .group_by(of.c.metric)
    ).all()
    asked = {metric.name for metric, _ in named(name for name in run.metrics if is_known(name))}
    lacking = {metric for metric, scored, unable, _ in rows if not scored and unable and metric in asked}
    present = {metric for metric, *_ in rows if metric in asked and METRICS[metric].weights}
    counted = counted_as_lacking(run.metrics, present, lacking)
    without = 0 if run.kind.startswith("nightly") and run.kind != RESCORE else len(counted)
    failed = sum(broken for metric, _, _, broken in rows if metric in asked)
    shortcomings = {"failed_scores": failed, "metrics_without_weights": without}
    return {name: count for name, count in shortcomings.items() if count}


def _unscored(session: Session, batch_id: str) -> int:
    """Published clips without any score."""
    scored = exists().where(Score.job_id == Job.id, Score.roll == Job.roll)
    query = select(func.count()).select_from(Job)
    return session.scalars(query.where(Job.batch_id == batch_id, Job.state == JobState.SUCCEEDED, ~scored)).one()


def clips_left(session: Session, batch_id: str) -> tuple[int, int]:
    """Count a batch's (jobs that have not ended, jobs that ended without a clip)."""
    open_ = func.count().filter(Job.state.not_in(TERMINAL_JOB_STATES))
    without = func.count().filter(Job.state.in_(TERMINAL_JOB_STATES - {JobState.SUCCEEDED}))
    row = session.execute(select(open_, without).where(Job.batch_id == batch_id)).one()
    return int(row[0]), int(row[1])
