"""The verdict on a night as its row keeps it, and the report in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from db.evals import runs
from db.models import EvalRun
from pipeline.scoring import compare as comparing
from pipeline.scoring.compare import Comparison, SpeedSample, SpeedVerdict, State
from pipeline.scoring.compare.html import html
from pipeline.scoring.compare.report import Report, as_json, markdown, measured
from pipeline.scoring.compare.statistics import ALPHA
from pipeline.states import EvalState
from pipeline.storage.base import Storage

_MEDIA_TYPES = {
    "html": "text/html",
    "md": "text/markdown",
    "json": "application/json",
    "scores.json": "application/json",
}


def store_report(run_id: str, report: Report, records: Sequence[Mapping[str, Any]], storage: Storage) -> dict[str, str]:
    """Store the report in all its forms; their keys by ending. Done again, it replaces what is there.

    Raises:
        StageError: the store cannot be reached, is full or refuses to be written to.
    """
    texts = {
        "html": html(report),
        "md": markdown(report),
        "json": json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "scores.json": json.dumps(list(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    keys = {}
    for ending, text in texts.items():
        keys[ending] = f"reports/{run_id}/report.{ending}"
        storage.put_bytes(keys[ending], text.encode(), content_type=_MEDIA_TYPES[ending])
    return keys


def nothing_compared(run_id: str, state: State, advice: str | None = None) -> Comparison:
    """The comparison of a night that has nothing to be compared with, or no clips."""
    return Comparison("none", run_id, state, advice, (), 0, ALPHA)


def shortfall(run: EvalRun, records: int) -> str | None:
    """What keeps a night from being complete, with numbers; None where nothing does."""
    if run.state is not EvalState.INCOMPLETE:
        return None
    parts = [f"{run.expected - records} of {run.expected} clips are missing"] if records < run.expected else []
    parts += runs.shortcomings({**(run.summary or {}), "missing_clips": 0})
    return f"The night is not complete: {', '.join(parts) or 'not everything was scored'}."


def verdict_of(state: State, meaning: str, speed: Sequence[SpeedVerdict]) -> dict[str, Any]:
    """The verdict's fields that do not depend on a baseline. A night that is slower than usual does not pass."""
    slower = [
        f"{slow.preset} on {slow.gpu_type}: {slow.measure.replace('_', ' ')} {measured(slow.measure, slow.value)}, "
        f"usually {measured(slow.measure, slow.median)}"
        for slow in speed
        if slow.state is State.REGRESSED and slow.median is not None
    ]
    return {
        "state": state.value,
        "meaning": meaning,
        "advice": None,
        "slower": slower,
        "passed": state in comparing.PASSED and not slower,
    }


def missing_margins(description: Mapping[str, Any], nights: int) -> str | None:
    """The advice to set margins, after this number of nights; None where the plan has some."""
    if description.get("margins"):
        return None
    if nights < 2:
        return (
            "no metric has a margin yet: after the next night, or with a run of the same suite with other seeds, "
            "`vgen eval calibrate` proposes them"
        )
    return "no metric has a margin yet: `vgen eval calibrate` proposes them from the nights so far"


def if_wanted(run_id: str) -> str:
    """What to do about a regression that is a change somebody wanted, such as a new checkpoint."""
    return f"If this change is wanted, `vgen eval accept {run_id}` makes this night the baseline of later ones."


def sample_as_json(sample: SpeedSample) -> dict[str, Any]:
    """The sample as a verdict holds it, for later nights to be compared with."""
    names = ("preset", "gpu_type", "seconds_per_clip", "peak_bytes")
    return {name: getattr(sample, name) for name in names}
