"""Score the clips of a baseline again after an upgrade of the scorer, so that a night can be compared with it.

Both kinds of scores stay as rows, each with its fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from db.evals import runs
from db.evals.planning import start_run
from db.models import EvalRun
from pipeline.scoring import registry
from pipeline.states import EvalState

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Stale:
    """A baseline whose scores were computed by another scorer than the night's."""

    run_id: str
    before: Mapping[str, Any]
    """How its scores were computed, by metric."""


def scorers(records: Records) -> dict[str, list[Any]]:
    """The different scorers of each metric's scores, but for metrics that compare clips with a baseline's."""
    ways: dict[str, dict[str, Any]] = {}
    for record in records:
        for name, score in record["scores"].items():
            made = (score.get("details") or {}).get("scorer")
            metric = registry.METRICS.get(name)
            if score["score"] is not None and made and metric is not None and metric.perfect is None:
                ways.setdefault(name, {})[json.dumps(made, sort_keys=True)] = made
    return {name: list(by_text.values()) for name, by_text in ways.items()}


def stale(candidate: Records, baselines: Sequence[tuple[str, Records]]) -> list[Stale]:
    """The baselines whose scores cannot be compared with the night's, with the metrics concerned."""
    now = {name: ways for name, ways in scorers(candidate).items() if len(ways) == 1}
    found = []
    for run_id, records in baselines:
        before = {name: ways for name, ways in scorers(records).items() if name in now and ways != now[name]}
        if before:
            found.append(Stale(run_id, before))
    return found


def start(session: Session, night: str, found: Sequence[Stale]) -> list[EvalRun]:
    """Begin an evaluation run that scores each of them again, unless this night has one already; all of these runs."""
    begun = {(run.suite or {})["rescored"]: run for run in of_night(session, night)}
    for one in found:
        if one.run_id in begun:
            continue
        batch_id = runs.get_run(session, one.run_id).batch_id
        suite = {"of": night, "rescored": one.run_id, "before": dict(one.before)}
        run_id = start_run(session, batch_id, kind=runs.RESCORE, metrics=list(one.before), suite=suite)
        begun[one.run_id] = runs.get_run(session, run_id)
    return list(begun.values())


def of_night(session: Session, night: str) -> list[EvalRun]:
    """The runs that score a night's baselines again."""
    return [run for run in runs.runs(session, kind=runs.RESCORE, limit=500) if (run.suite or {}).get("of") == night]


def unfinished(rescores: Sequence[EvalRun]) -> list[EvalRun]:
    """The runs among them that are still open."""
    return [run for run in rescores if run.state is EvalState.OPEN]


def lost(rescores: Sequence[EvalRun], candidate: Records, baselines: Sequence[tuple[str, Records]]) -> set[str]:
    """The ids of baselines that could not all be scored again as the night was: they are left out.

    Of some a clip was gone, others met a worker without the weights, or one of yet another release.
    """
    done = {(run.suite or {})["rescored"]: run.state for run in rescores}
    still = {one.run_id for one in stale(candidate, baselines)}
    return {name for name, state in done.items() if state is EvalState.INCOMPLETE or name in still}


def as_json(rescores: Sequence[EvalRun], candidate: Records, gone: Collection[str]) -> list[dict[str, Any]]:
    """For the verdict: which runs were scored again, and their scorers before and now; ``gone`` is of ``lost``."""
    now = scorers(candidate)
    return [
        {
            "run": (run.suite or {})["rescored"],
            "by": run.id,
            "complete": (run.suite or {})["rescored"] not in gone,
            "metrics": {
                name: {"before": before, "now": now.get(name, [])}
                for name, before in (run.suite or {})["before"].items()
            },
        }
        for run in rescores
    ]


def remarks(rescores: Sequence[EvalRun], gone: Collection[str]) -> list[str]:
    """A sentence for each baseline that was scored again, for the report; ``gone`` is of ``lost``."""
    sentences = []
    for run in rescores:
        suite = run.suite or {}
        names = ", ".join(suite["before"])
        if suite["rescored"] not in gone:
            sentences.append(
                f"Run {suite['rescored']} was scored again by this night's scorer ({names}), as its scores were "
                "computed by another one. Both scores are kept."
            )
        else:
            sentences.append(
                f"Run {suite['rescored']} could not be scored again in full ({names}): it is not compared with. "
                f"`vgen eval scores {run.id}` shows why."
            )
    return sentences
