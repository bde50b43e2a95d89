"""Exports votes, ratings and notes in the formats of other tools.

``fiftyone`` is what ``fiftyone.Dataset.from_json`` loads (FiftyOne 1.22, ``fiftyone/core/dataset.py``: a name, the
media type, the fields with their classes, the samples). ``label-studio`` and ``label-studio-pairs`` are Label Studio's
tasks with annotations (labelstud.io/guide/task_format), for labelling configurations with ``Rating`` and ``TextArea``,
and with ``Pairwise``; docs/pages.md shows both.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipeline.html.texts import visible
from service.views.votes import JudgedClipView, RatingView, VotesView, VoteView

JSON, CSV = "application/json", "text/csv; charset=utf-8"
_COLUMNS = (
    *("kind", "job", "other_job", "rater", "stars", "preferred", "note", "at"),
    *("prompt", "seed", "preset", "custom_id", "labels", "video", "other_prompt", "other_video"),
)
_FORMULA_BEGINS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What spreadsheet programs take for the beginning of a formula (OWASP, "CSV Injection"), also in full width."""
_FIELDS = {
    **dict.fromkeys(("job", "prompt", "preset", "custom_id", "notes"), "fiftyone.core.fields.StringField"),
    "stars": "fiftyone.core.fields.FloatField",
    **dict.fromkeys(("seed", "won", "lost", "tied", "raters"), "fiftyone.core.fields.IntField"),
    "labels": "fiftyone.core.fields.DictField",
}


def exported(view: VotesView, form: str) -> tuple[str, str]:
    """Return the text in one of the ``EXPORTS``, and its media type."""
    return EXPORTS[form](view)


def _as_json(view: VotesView) -> tuple[str, str]:
    return view.model_dump_json(indent=2) + "\n", JSON


def _as_csv(view: VotesView) -> tuple[str, str]:
    """One row for each rating and each vote; no cell is taken for a formula, and no mark turns the text around it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    clips = {clip.job_id: clip for clip in view.clips}
    for clip in view.clips:
        for rating in clip.ratings:
            writer.writerow(_cells(_rating_row(clip, rating)))
    for vote in view.votes:
        writer.writerow(_cells(_vote_row(clips, vote)))
    return text.getvalue(), CSV


def _rating_row(clip: JudgedClipView, rating: RatingView) -> dict[str, Any]:
    said = {"rater": rating.rater, "stars": rating.stars, "note": rating.note, "at": rating.updated_at}
    return {"kind": "rating", **_facts(clip), **said}


def _vote_row(clips: dict[str, JudgedClipView], vote: VoteView) -> dict[str, Any]:
    second = clips[vote.second]
    other = {"other_job": vote.second, "other_prompt": second.prompt, "other_video": second.video}
    said = {"rater": vote.rater, "preferred": vote.preferred or "neither", "at": vote.voted_at}
    return {"kind": "vote", **_facts(clips[vote.first]), **other, **said}


def _facts(clip: JudgedClipView) -> dict[str, Any]:
    labels = "; ".join(f"{name}={value}" for name, value in clip.labels.items())
    names = ("prompt", "seed", "preset", "custom_id", "video")
    return {"job": clip.job_id, "labels": labels, **{name: getattr(clip, name) for name in names}}


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _cell(value) if isinstance(value, str) else value for name, value in row.items()}


def _cell(text: str) -> str:
    text = visible(text)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_BEGINS) else text


def _as_fiftyone(view: VotesView) -> tuple[str, str]:
    samples = [
        {
            "filepath": clip.video,
            "_media_type": "video",
            "tags": ["noted"] if any(rating.note for rating in clip.ratings) else [],
            "job": clip.job_id,
            **{name: getattr(clip, name) for name in ("prompt", "seed", "preset", "custom_id", "labels")},
            **{name: getattr(clip, name) for name in ("stars", "won", "lost", "tied")},
            "raters": len(clip.ratings),
            "notes": "\n\n".join(f"{rating.rater}: {rating.note}" for rating in clip.ratings if rating.note) or None,
            "frames": {},
        }
        for clip in view.clips
        if clip.video is not None
    ]
    dataset = {"name": f"vgen-{view.batch_id}", "media_type": "video", "sample_fields": _FIELDS, "frame_fields": {}}
    return json.dumps({**dataset, "info": {"votes": _votes(view)}, "samples": samples}, indent=2) + "\n", JSON


def _votes(view: VotesView) -> list[dict[str, Any]]:
    return [vote.model_dump() for vote in view.votes]


def _as_ratings_tasks(view: VotesView) -> tuple[str, str]:
    tasks = [
        {"data": _task_data(clip), "annotations": [{"result": list(_rating_result(rating))} for rating in clip.ratings]}
        for clip in view.clips
    ]
    return json.dumps(tasks, indent=2) + "\n", JSON


def _task_data(clip: JudgedClipView, number: str = "") -> dict[str, Any]:
    names = ("job_id", "prompt", "video", "seed", "preset", "labels")
    return {f"{name}{number}": getattr(clip, name) for name in names}


def _rating_result(rating: RatingView) -> Iterator[dict[str, Any]]:
    if rating.stars is not None:
        yield _result("stars", "video", "rating", {"rating": rating.stars}, rating.rater)
    if rating.note is not None:
        yield _result("note", "video", "textarea", {"text": [rating.note]}, rating.rater)


def _as_pairs_tasks(view: VotesView) -> tuple[str, str]:
    clips = {clip.job_id: clip for clip in view.clips}
    tasks: dict[tuple[str, str], dict[str, Any]] = {}
    for vote in view.votes:
        data = {**_task_data(clips[vote.first], "1"), **_task_data(clips[vote.second], "2")}
        task = tasks.setdefault((vote.first, vote.second), {"data": data, "annotations": []})
        task["annotations"].append({"result": list(_pair_result(vote))})
    return json.dumps(list(tasks.values()), indent=2) + "\n", JSON


def _pair_result(vote: VoteView) -> Iterator[dict[str, Any]]:
    """The choice of the tag ``Pairwise``, which has no word for neither: then the tag ``Choices`` has it."""
    if vote.preferred is None:
        yield _result("neither", "video1", "choices", {"choices": ["neither"]}, vote.rater)
        return
    side = "left" if vote.preferred == vote.first else "right"
    yield {**_result("better", "video1", "pairwise", {"selected": side}, vote.rater), "to_name": "video1,video2"}


def _result(name: str, of: str, kind: str, value: dict[str, Any], rater: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": of, "type": kind, "value": value, "meta": {"text": [rater]}}


EXPORTS: dict[str, Callable[[VotesView], tuple[str, str]]] = {
    "json": _as_json,
    "csv": _as_csv,
    "fiftyone": _as_fiftyone,
    "label-studio": _as_ratings_tasks,
    "label-studio-pairs": _as_pairs_tasks,
}
"""The forms by name."""
