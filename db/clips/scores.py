"""Scores of clips as rows: stored with the step that computed them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Insert, Table
from sqlalchemy.orm import Session

from db.base import upsert
from db.models import Score
from db.session import now_ms
from pipeline.digests import canonical_json, sha256_hex
from pipeline.work import ScoreRecord

_SCORES = cast(Table, Score.__table__)
_KEY = ("job_id", "roll", "metric", "scorer_digest")
_MADE = ("score", "reason", "passed", "details", "version", "weights_digest", "scorer", "scored_at")


def record(session: Session, job_id: str, roll: int, scores: Sequence[ScoreRecord]) -> None:
    """Store a clip's scores; what the same scorer said of it before is replaced."""
    if not scores:
        return
    connection = session.connection()
    connection.execute(_recording(connection.dialect.name), [_row(job_id, roll, score) for score in scores])


def _row(job_id: str, roll: int, score: ScoreRecord) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "roll": roll,
        "metric": score.metric,
        "scorer_digest": sha256_hex(canonical_json(score.scorer)),
        "score": score.score,
        "reason": (score.reason or "no reason was given") if score.score is None else None,
        "passed": score.passed,
        "details": score.details,
        "version": score.version,
        "weights_digest": weights_digest(score.scorer),
        "scorer": score.scorer,
    }


def weights_digest(scorer: Mapping[str, Any]) -> str | None:
    """sha256 over the digests of the weight files that a scorer used; None where it used none."""
    weights = scorer.get("weights")
    return sha256_hex(canonical_json(weights)) if weights else None


@lru_cache(maxsize=2)
def _recording(dialect: str) -> Insert:
    return upsert(dialect, _SCORES, _KEY, _MADE, scored_at=now_ms())
