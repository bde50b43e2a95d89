"""Score files: the JSON list that ``vgen eval run`` writes, read again to be pooled, extended and compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.files.json_reader import read_json
from pipeline.scoring.metric import Score

Record = dict[str, Any]
MAX_FILE_BYTES = 512 * 1024 * 1024
_LARGEST = 1e50
"""No score or weight is larger, and products and squares of such numbers are finite."""
_RULE = f"a number from {-_LARGEST:g} to {_LARGEST:g}"
_FIELDS: Mapping[str, tuple[type, str]] = {
    "video": (str, "text"),
    "entry": (int, "a whole number of 0 or more"),
    "seed": (int, "a whole number"),
    "pixels": (str, "text"),
    "sound": (str, "text"),
    "key": (str, "text"),
    "sha256": (str, "text"),
    "inputs": (str, "text"),
    "poster": (str, "text"),
    "page": (str, "text"),
    "made": (dict, "an object"),
    "prompt": (str, "text"),
}


def write_scores(path: Path, records: Sequence[Record]) -> None:
    """Replace the file at once: a reader sees the old list or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        draft.write_text(json.dumps(list(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_scores(path: Path) -> list[Record]:
    """The records of a score file. Raises InputError if the file is not a score file."""
    records = read_json(path, what="the score file", limit_bytes=MAX_FILE_BYTES)
    if not isinstance(records, list):
        raise InputError([Problem("it is not a list of {video, scores}", file=str(path))])
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("scores"), dict) or "video" not in record:
            raise InputError([Problem("it has no video and scores", file=str(path), field=f"record {number}")])
        for name, (kind, form) in _FIELDS.items():
            value = record.get(name)
            fits = isinstance(value, kind) and not isinstance(value, bool)
            if name == "entry" and isinstance(value, int):
                fits = fits and value >= 0
            if value is not None and not fits:
                message = f"{name}: {value!r:.80} is not {form}"
                raise InputError([Problem(message, file=str(path), field=f"record {number}")])
        for name, raw in record["scores"].items():
            rule = _broken_rule(raw)
            if rule is not None:
                raise InputError([Problem(f"{name}: {rule}", file=str(path), field=f"record {number}")])
    return records


def _broken_rule(raw: object) -> str | None:
    value = raw.get("score", "") if isinstance(raw, dict) else ""
    if value is not None and not _finite(value):
        return f"its score is not null or {_RULE}"
    details = raw.get("details") or {} if isinstance(raw, dict) else None
    if not isinstance(details, dict):
        return "its details are not an object"
    if not isinstance(details.get("reason", ""), str | None):
        return "its details.reason is not a text"
    if not isinstance(details.get("passed"), bool | None):
        return "its details.passed is not true or false"
    weighs = _finite(details.get("weight", 1.0), least=0.0)
    return None if weighs else f"its details.weight is not a number from 0 to {_LARGEST:g}"


def _finite(value: object, least: float = -_LARGEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _LARGEST


def score_of(raw: Mapping[str, Any]) -> Score:
    """A score as it was before it was written."""
    details = dict(raw.get("details") or {})
    passed = details.pop("passed", None)
    if raw["score"] is None:
        return Score(None, details.pop("reason", None), passed=passed, details=details)
    return Score(float(raw["score"]), weight=float(details.pop("weight", 1.0)), passed=passed, details=details)


def by_metric(records: Sequence[Record]) -> dict[str, list[Score]]:
    """Each metric's scores over all records; a clip with a key counts once for each metric, the last time.

    Clips without a key are distinguished by their path.
    """
    by_name: dict[str, dict[object, Score]] = {}
    for record in records:
        key = record["video"] if record.get("entry") is None else (record["entry"], record.get("seed"))
        for name, raw in record["scores"].items():
            by_name.setdefault(name, {})[key] = score_of(raw)
    return {name: list(scores.values()) for name, scores in by_name.items()}


def mixed_scorers(records: Sequence[Record]) -> list[str]:
    """Metrics whose scores were made by different versions, weights, devices or libraries."""
    by_name: dict[str, set[str]] = {}
    for record in records:
        for name, raw in record["scores"].items():
            scorer = (raw.get("details") or {}).get("scorer")
            if scorer is not None:
                by_name.setdefault(name, set()).add(json.dumps(scorer, sort_keys=True))
    return sorted(name for name, scorers in by_name.items() if len(scorers) > 1)
