"""`vgen eval run --output FILE` continues after an interruption: scores that FILE has are not computed again."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli import output
from pipeline.files.digests import file_sha256
from pipeline.scoring import Metric, Models
from pipeline.scoring.devices import score_on
from pipeline.scoring.run import ClipScores, ClipToScore, as_json, fingerprint, is_asked
from pipeline.scoring.score_file import Record, read_scores, score_of


@dataclass(frozen=True, slots=True)
class _Kept:
    """The record of a clip that an earlier run left, and those of its scores that need not be computed again."""

    record: Record
    metrics: frozenset[str]


def earlier_records(file: Path | None) -> dict[str, Record]:
    """The records of a score file by their video; empty if the file does not exist.

    Raises:
        InputError: the file exists and is not a score file.
    """
    if file is None or not file.exists():
        return {}
    return {str(record["video"]): record for record in read_scores(file)}


def score(
    clips: Sequence[ClipToScore],
    metrics: Sequence[Metric],
    devices: Sequence[Models],
    max_bytes: int,
    earlier: dict[str, Record],
) -> Iterator[tuple[ClipScores, Record]]:
    """Score clips on these devices, in order: the scores of each, and its record of a score file.

    A score among ``earlier`` is kept where the clip's bytes, its prompt, reference and suite, and the scorer are the
    same; so is that of a metric that is not asked for now. A record is taken out of ``earlier`` as its clip's turn
    comes, so that what is left there is what has not been replaced.
    """
    prints = {metric.name: fingerprint(metric, devices[0]) for metric in metrics}
    kept = {
        clip.video: _kept(clip, metrics, prints, earlier[str(clip.video)])
        for clip in clips
        if str(clip.video) in earlier
    }
    if count := sum(len(one.metrics) for one in kept.values()):
        output.notice(
            f"{count} scores of {sum(bool(one.metrics) for one in kept.values())} clips are kept from the score file"
        )
    known = [replace(clip, known=kept[clip.video].metrics if clip.video in kept else frozenset()) for clip in clips]
    is_pending = [any(is_asked(metric, clip) for metric in metrics) for clip in known]
    pending = list(itertools.compress(known, is_pending))
    results = score_on(pending, metrics, devices, max_bytes)
    for clip, pends in zip(known, is_pending, strict=True):
        scored = next(results) if pends else ClipScores(clip, {}, None, 0.0, {})
        before = kept.get(clip.video, _Kept({"scores": {}}, frozenset()))
        scores = {**{name: score_of(before.record["scores"][name]) for name in before.metrics}, **scored.scores}
        pixels, sha256 = scored.pixels or before.record.get("pixels"), scored.sha256 or before.record.get("sha256")
        record = as_json(replace(scored, pixels=pixels, sha256=sha256), prints)
        record["scores"] = {**before.record["scores"], **record["scores"]}
        earlier.pop(str(clip.video), None)
        yield replace(scored, scores=scores), {**record, "inputs": _inputs(clip)}


def _inputs(clip: ClipToScore) -> str | None:
    try:
        return clip.inputs_digest()
    except OSError:  # a reference that is gone: the clip is not scored, and says so
        return None


def _kept(clip: ClipToScore, metrics: Sequence[Metric], prints: Mapping[str, Any], record: Record) -> _Kept:
    """What still holds of a record: nothing where the file is another one now."""
    try:
        same_file = record.get("sha256") == file_sha256(clip.video)
    except OSError:
        same_file = False
    asked = {metric.name for metric in metrics}
    others = {name: raw for name, raw in record["scores"].items() if name not in asked}
    if not same_file:
        return _Kept({**record, "scores": {} if "sha256" in record else others}, frozenset())
    valid = {
        name: raw
        for name, raw in record["scores"].items()
        if name in asked and raw["score"] is not None and raw["details"].get("scorer") == prints[name]
    }
    valid = valid if record.get("inputs") == _inputs(clip) else {}
    return _Kept({**record, "scores": {**others, **valid}}, frozenset(valid))
