"""The verdict on a night as its row keeps it, and the report in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.scoring import compare as comparing
from pipeline.scoring.compare import Comparison, Run, SpeedSample, SpeedVerdict, State
from pipeline.scoring.compare.html import html
from pipeline.scoring.compare.report import Report, as_json, markdown
from pipeline.scoring.compare.strips import strips_of_worst
from pipeline.storage.base import Storage
from tasks.upkeep.nightly.stored_pairs import StoredPairs

_MEDIA_TYPES = {
    "html": "text/html",
    "md": "text/markdown",
    "json": "application/json",
    "scores.json": "application/json",
}


def stored_report(
    run_id: str,
    comparison: Comparison,
    both: tuple[Run, Run],
    records: Sequence[Mapping[str, Any]],
    history: Sequence[Run],
    speed: Sequence[SpeedVerdict],
    storage: Storage,
    pairs: StoredPairs,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """Store the report, and return the verdict."""
    report = Report(
        comparison, history, speed, runs=both, strips=strips_of_worst(comparison, pairs.read), remarks=remarks
    )
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
    verdict = verdict_of(comparison.state, comparing.MEANING[comparison.state], speed)
    return {**verdict, "advice": comparison.advice, "baseline": comparison.baseline, "reports": keys}


def verdict_of(state: State, meaning: str, speed: Sequence[SpeedVerdict]) -> dict[str, Any]:
    slower = [
        f"{slow.preset} on {slow.gpu_type}: {slow.measure} {slow.value:.6g}, usually {slow.median:.6g}"
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
    """What stands between these nights and a verdict, in one sentence; None where it is not margins."""
    if description.get("margins"):
        return None
    if nights < 2:
        return (
            "no metric has a margin yet: after the next night, or with a run of the same suite with other seeds, "
            "`vgen eval calibrate` proposes them"
        )
    return "no metric has a margin yet: `vgen eval calibrate` proposes them from the nights so far"


def sample_as_json(sample: SpeedSample) -> dict[str, Any]:
    names = ("preset", "gpu_type", "seconds_per_clip", "peak_bytes")
    return {name: getattr(sample, name) for name in names}
