"""`vgen eval run BATCH`: scores a batch's published clips on a cluster's workers or here, and stores the scores."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cli import output
from cli.context import open_database
from cli.eval.suite import work_off
from db.clips import batches, scores
from db.evals import clips, runs
from db.evals.planning import start_run
from db.session import Database
from pipeline.scoring import Models, gate
from pipeline.scoring.registry import Selection
from pipeline.scoring.run import ClipScores, as_json
from pipeline.scoring.score_file import score_of, write_scores
from pipeline.settings import Settings
from pipeline.stages.clip_scorer import ClipScorer
from pipeline.states import EvalState
from pipeline.wiring import make_storage
from pipeline.work import StoredClip
from service.exit_codes import ExitCode
from service.views import evals as views

_PAGE = 200
_BATCH_ID = re.compile(r"latest|[0-9a-hjkmnp-tv-z]{13}")


def names_batch(videos: Sequence[str]) -> bool:
    """Return whether the argument is a batch (a whole batch id or ``latest``) and not the name of an existing file."""
    return len(videos) == 1 and _BATCH_ID.fullmatch(videos[0]) is not None and not Path(videos[0]).exists()


@dataclass
class BatchRun:
    """Scores every published clip of a batch, when it is iterated: its scores, and its record of a score file.

    An evaluation run is opened, and ended as complete when every job has a clip, every clip could be read, no model
    failed, and no group that was asked for has only metrics that lack their weights. ``summary`` says what kept it
    from that: counts, of which all are 0 when it is complete.
    """

    settings: Settings
    batch: str
    names: Sequence[str]
    selection: Selection
    models: Models
    summary: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[ClipScores, dict[str, Any]]]:
        metrics = self.selection.metrics
        storage = make_storage(self.settings)
        with open_database(self.settings) as database:
            with database.transaction() as session:
                batch_id = batches.get(session, self.batch).id
                run_id = runs.open_run(session, batch_id, kind="batch", metrics=self.names)
                unfinished, missing = runs.clips_left(session, batch_id)
                wanted = {metric.name for metric in metrics}
                stored = {record["job"]: record["scores"] for record in runs.records_of(session, batch_id, wanted)}
            if unfinished or missing:
                output.notice(
                    f"{unfinished + missing} jobs of batch {batch_id} have no clip: the run will be incomplete"
                )
            unread = failed = 0
            scorer = ClipScorer(metrics, self.models, self.settings.eval.clip_bytes)
            for clip, result in scorer.score_stored(_clips(database, batch_id), storage):
                unread += result.problem is not None
                failed += sum(bool(score.details.get("failed")) for score in result.scores.values())
                with database.transaction() as session:
                    scores.record(session, clip.job_id, clip.roll, scorer.records(result.scores))
                before = {name: score_of(stored[clip.job_id][name]) for name in scorer.known(clip)}
                complete = replace(result, scores={**before, **result.scores})
                yield complete, as_json(complete, scorer.fingerprints)
            self.summary |= {"missing_clips": unfinished + missing, "unread_clips": unread}
            lacking = len(self.selection.without_weights(self.names))
            shortcomings = {"failed_scores": failed, "metrics_without_weights": lacking}
            self.summary |= {name: count for name, count in shortcomings.items() if count}
            with database.transaction() as session:
                runs.close_run(session, run_id, complete=not any(self.summary.values()), summary=self.summary)
        why = ", ".join(runs.shortcomings(self.summary))
        output.notice(f"evaluation run {run_id}: scores are stored" + (f"; it is incomplete: {why}" if why else ""))


def score_by_workers(settings: Settings, batch: str, names: Sequence[str], write: Path | None, json: bool) -> int:
    """Let the cluster's workers score the batch, wait, show the rows' scores, and return the exit code.

    Raises:
        InputError: an unknown metric, one that is external or needs a reference.
    """
    wanted = {metric.name for metric in gate.check_metrics(names, field="--metrics")}
    with open_database(settings) as database:
        with database.transaction() as session:
            batch_id = batches.get(session, batch).id
            run_id = start_run(session, batch_id, kind="batch", metrics=names)
        output.notice(f"evaluation run {run_id}")
        code = work_off(database, settings, batch_id)
        with database.transaction() as session:
            runs.settle(session)
            run = runs.get_run(session, run_id)
            state, why = run.state, ", ".join(runs.shortcomings(run.summary or {}))
            records = runs.records_of(session, batch_id, wanted)
    if state is EvalState.OPEN:
        output.notice(f"it continues; to see the scores: `vgen eval scores {run_id}`")
        return code or ExitCode.INCOMPLETE
    if why:
        output.notice(f"evaluation run {run_id} is incomplete: {why}")
    if write is not None:
        write_scores(write, records)
    if json:
        clips = [views.ClipScoresView(**{**views.NO_CLIP_SCORES, **_public(record)}) for record in records]
        output.as_json(views.EvalRunView(clips=clips, left_out=[]))
    failed = 0
    for record in records:
        for name, score in record["scores"].items():
            failed += score["details"].get("passed") is False
            if not json:
                output.line(f"{record['video']}\t{name}\t{_verdict(score)}")
    return ExitCode.DONE if state is EvalState.COMPLETE and not failed else ExitCode.INCOMPLETE


def _public(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name in views.ClipScoresView.model_fields}


def _verdict(score: dict[str, Any]) -> str:
    if score["score"] is None:
        return f"not scored: {score['details']['reason']}"
    passed = score["details"].get("passed")
    return f"{score['score']:.6g}{'' if passed is None else ' pass' if passed else ' FAIL'}"


def _clips(database: Database, batch_id: str) -> Iterator[StoredClip]:
    with database.reading() as session:
        total = batches.get(session, batch_id).total
    for first in range(0, total, _PAGE):
        with database.reading() as session:
            page = clips.published(session, batch_id, first, first + _PAGE - 1)
        yield from page
