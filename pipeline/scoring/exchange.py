"""Export clips for VBench's official code under its file names, and import its ``*_eval_results.json``.

The official code identifies a clip by its name, ``PROMPT-INDEX.mp4``. Each export has an index that maps these names to
clips, so that vgen never reads a prompt from a file name.
"""

import json
import math
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem, RefusedError
from pipeline.files.drafts import draft_of
from pipeline.files.json_reader import read_json
from pipeline.files.names import broken_rule, printable, unusable
from pipeline.files.regular import open_regular_file
from pipeline.media.frames import video_stream
from pipeline.media.opening import UnreadableMediaError, open_media
from pipeline.scoring.aggregates import READ_PER_PROMPT, pool_dimension
from pipeline.scoring.metric import Score, not_scored
from pipeline.scoring.suite import Suite
from pipeline.scoring.vbench import DIMENSIONS

INDEX = "vgen-export.json"
_INDEXED = re.compile(r".+-[0-4]\.mp4", re.DOTALL)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Not of a drive (``C:/``)."""
MAX_FILE_BYTES = 64 * 1024 * 1024
DETECTOR_FRAMES = 16
AGGREGATE_TOLERANCE = 1e-4
"""The allowed difference between an official value and that of its clips: it is computed in single precision."""
_DETECTED = ("object_class", "multiple_objects", "spatial_relationship", "scene")


@dataclass(frozen=True, slots=True)
class ManifestClip:
    """The file that is the clip of one entry and seed of a suite."""

    video: Path
    entry: int
    seed: int


@dataclass(frozen=True, slots=True)
class Exported:
    """One file of an export."""

    dimension: str
    name: str
    video: str
    entry: int
    seed: int
    frames: int


_EXPORTED = {"dimension": str, "name": str, "video": str, "entry": int, "seed": int, "frames": int}


def read_manifest(path: Path, suite: Suite) -> list[ManifestClip]:
    """A JSON list of ``{video, entry, seed}``; videos are relative to the file's folder.

    Raises:
        InputError: every record that is wrong, names no entry of the suite, or repeats a key.
    """
    records = read_json(path, what="the manifest", limit_bytes=MAX_FILE_BYTES)
    if not isinstance(records, list) or not records:
        raise InputError([Problem("the manifest is not a list of {video, entry, seed}", file=str(path))])
    clips, problems = [], []
    keys: set[tuple[int, int]] = set()
    for number, raw in enumerate(records):
        problem = _manifest_mistake(raw, path.parent, len(suite.entries), keys)
        if problem:
            problems.append(Problem(problem, file=str(path), field=f"record {number}"))
            continue
        keys.add((raw["entry"], raw["seed"]))
        clips.append(ManifestClip(path.parent / raw["video"], raw["entry"], raw["seed"]))
    if problems:
        raise InputError(problems)
    return clips


def _manifest_mistake(raw: object, folder: Path, entries: int, keys: set[Any]) -> str | None:
    if not isinstance(raw, dict) or not isinstance(raw.get("video"), str) or not raw["video"]:
        return "the record has no video: the path of a file is needed"
    if unusable(raw["video"]):
        return f"video: {printable(raw['video'][:200])} has a control character, or one that is not valid Unicode"
    if _ADDRESS.match(raw["video"]) and not os.path.lexists(folder / raw["video"]):
        return f"video: {raw['video'][:200]!r} is an address; a manifest names files on this machine"
    for name in ("entry", "seed"):
        if not isinstance(raw.get(name), int) or isinstance(raw.get(name), bool):
            return f"{name}: {raw.get(name)!r:.80} is not a whole number"
    if not 0 <= raw["entry"] < entries:
        return f"entry: {raw['entry']} is not in the suite, which has 0 to {entries - 1}"
    if (raw["entry"], raw["seed"]) in keys:
        return f"entry {raw['entry']} with seed {raw['seed']} is listed twice in the manifest"
    return None


def export(clips: Sequence[ManifestClip], suite: Suite, dimensions: Iterable[str], target: Path) -> list[Exported]:
    """Lay clips out as ``target/DIMENSION/PROMPT-INDEX.mp4``, by hard link where the disk allows it.

    Index i is the clip with the i-th smallest seed of its entry; only the first five are exported.

    Raises:
        InputError: a clip is not an MP4 or cannot be read, a prompt cannot be a file name, or ``target`` already has
            such a file. No file of the export is left there then.
    """
    planned = _planned(clips, suite, dimensions)
    _refuse_names(planned, suite, target)
    frames = _frame_counts({clip.video for _, _, clip in planned})
    exported = []
    try:
        for dimension, name, clip in planned:
            place = target / dimension / name
            place.parent.mkdir(parents=True, exist_ok=True)
            _place(clip.video, place)
            exported.append(
                Exported(dimension, name, str(clip.video.absolute()), clip.entry, clip.seed, frames[clip.video])
            )
        index = [{name: getattr(item, name) for name in Exported.__slots__} for item in exported]
        target.mkdir(parents=True, exist_ok=True)
        with draft_of(target / INDEX) as draft:
            draft.write_text(json.dumps({"suite_sha256": suite.sha256, "files": index}, indent=1), "utf-8")
    except OSError as error:
        for item in exported:
            (target / item.dimension / item.name).unlink(missing_ok=True)
        message = f"{error.filename or target} cannot be written: {error.strerror or error}; nothing was exported"
        raise InputError([Problem(message, field="--to")]) from error
    return exported


_Planned = tuple[str, str, ManifestClip]
"""A dimension, the name of a file in its folder, and the clip."""


def _planned(clips: Sequence[ManifestClip], suite: Suite, dimensions: Iterable[str]) -> list[_Planned]:
    by_entry: dict[int, list[ManifestClip]] = defaultdict(list)
    for clip in clips:
        by_entry[clip.entry].append(clip)
    return [
        (dimension, f"{suite.entries[entry].prompt}-{i}.mp4", clip)
        for dimension in dict.fromkeys(dimensions)
        for entry, entry_clips in sorted(by_entry.items())
        if dimension in suite.entries[entry].dimensions
        for i, clip in enumerate(sorted(entry_clips, key=lambda clip: clip.seed)[:READ_PER_PROMPT])
    ]


def _refuse_names(planned: Sequence[_Planned], suite: Suite, target: Path) -> None:
    """Check all file names before anything is written: the official code identifies a clip by its prompt.

    Raises:
        InputError: a prompt cannot be a file name, two entries have the same prompt, or the file exists already.
    """
    problems = dict[str, Problem]()
    owners: dict[tuple[str, str], int] = {}
    for dimension, name, clip in planned:
        prompt, place = printable(suite.entries[clip.entry].prompt[:80]), target / dimension / name
        if (rule := broken_rule(name)) is not None:
            message = (
                f"entry {clip.entry}: its prompt {prompt!r} cannot be the name of a file, which VBench's code needs"
            )
            problems[message] = Problem(f"{message}: it {rule}", suite.source or None)
        elif (owner := owners.setdefault((dimension, name), clip.entry)) != clip.entry:
            message = f"entries {owner} and {clip.entry} have the same prompt {prompt!r} in {dimension}"
            problems[message] = Problem(
                f"{message}: VBench's code could not tell their clips apart", suite.source or None
            )
        elif place.exists() or place.is_symlink():
            problems[str(place)] = Problem(f"{place} exists already: export into an empty folder", field="--to")
    if problems:
        raise InputError(list(problems.values()))


def read_export(folder: Path) -> dict[tuple[str, str], Exported]:
    """The files of an export, by dimension and name. Raises InputError if the folder is not an export."""
    path = folder / INDEX
    if not path.exists():
        raise InputError([Problem(f"{folder} is not an export: it has no {INDEX}", field="--export")])
    content = read_json(path, what="the list of an export", limit_bytes=MAX_FILE_BYTES)
    records = content.get("files") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise InputError([Problem("the index of the export has no list 'files'", file=str(path))])
    files: dict[tuple[str, str], Exported] = {}
    problems = []
    for number, record in enumerate(records):
        rule = _exported_mistake(record, files)
        if rule is not None:
            problems.append(Problem(rule, file=str(path), field=f"files {number}"))
            continue
        files[record["dimension"], record["name"]] = Exported(**record)
    if problems:
        raise InputError(problems)
    return files


def _exported_mistake(record: object, files: Mapping[tuple[str, str], Exported]) -> str | None:
    if not isinstance(record, dict) or {name: type(value) for name, value in record.items()} != _EXPORTED:
        rule = ", ".join(f"{name} ({kind.__name__})" for name, kind in _EXPORTED.items())
        return f"the record is not an object of {rule}"
    dimension, name = record["dimension"], record["name"]
    if dimension not in DIMENSIONS:
        return f"{dimension!r:.80} is not a VBench dimension"
    if _INDEXED.fullmatch(name) is None or broken_rule(name) is not None:
        return f"{printable(name[:80])!r} is not the name of an exported file: PROMPT-INDEX.mp4, INDEX from 0 to 4"
    if record["entry"] < 0 or record["frames"] < 1:
        return f"entry {record['entry']} or frames {record['frames']} is below what there can be"
    if (dimension, name) in files:
        return f"{dimension}/{printable(name[:80])} is listed twice"
    others = [file for file in files.values() if file.dimension == dimension]
    if any((file.entry, file.seed) == (record["entry"], record["seed"]) for file in others):
        return f"entry {record['entry']} with seed {record['seed']} is listed twice in {dimension}"
    return None


@dataclass(frozen=True, slots=True)
class Results:
    """The scores of an official ``*_eval_results.json`` by clip, and a sentence for each inconsistency."""

    scores: list[tuple[Exported, Score]]
    notices: list[str]


def read_results(path: Path, exported: Mapping[tuple[str, str], Exported]) -> Results:
    """The results of an official ``*_eval_results.json``. Exported clips that it leaves out are not scored.

    The file's value of each dimension is compared with the one that its clips give when they are pooled as on one GPU.

    Raises:
        InputError: the file is not an official result file, or names a clip that was not exported, or a clip twice.
    """
    # Python writes NaN for a clip that the official code could not score.
    content = read_json(path, what="the file of results", limit_bytes=MAX_FILE_BYTES, allow_nan=True)
    if not isinstance(content, dict) or not content:
        raise InputError([Problem("the file of results is not an object with a dimension", file=str(path))])
    results: list[tuple[Exported, Score]] = []
    problems: list[Problem] = []
    notices: list[str] = []
    for dimension, value in content.items():
        if dimension not in DIMENSIONS:
            problems.append(Problem(f"{dimension!r:.80} is not a VBench dimension", file=str(path)))
        elif not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], list)):
            problems.append(Problem("the result is not [value, [per clip, …]]", file=str(path), field=dimension))
        else:
            scores = _of_dimension(dimension, value[1], exported, path, problems)
            notices += _disagreement(dimension, value[0], [score for _, score in scores], path)
            results += scores
    if problems:
        raise InputError(problems)
    return Results(results, notices)


def merged_results(paths: Sequence[Path], exported: Mapping[tuple[str, str], Exported]) -> Results:
    """The results of several files together. Raises InputError as ``read_results`` does, and if two files have the same
    dimension.
    """
    merged = Results([], [])
    owners: dict[str, Path] = {}
    problems = []
    for path in paths:
        results = read_results(path, exported)
        for dimension in dict.fromkeys(item.dimension for item, _ in results.scores):
            if owners.setdefault(dimension, path) != path or paths.count(path) > 1:
                message = f"{owners[dimension]} has results of this dimension too: give each dimension once"
                problems.append(Problem(message, file=str(path), field=dimension))
        merged.scores.extend(results.scores)
        merged.notices.extend(results.notices)
    if problems:
        raise InputError(problems)
    return merged


def _disagreement(dimension: str, official: object, scores: Sequence[Score], path: Path) -> Iterator[str]:
    """A sentence if the official value of a dimension differs from the one that its clips give."""
    if not isinstance(official, int | float) or isinstance(official, bool) or not math.isfinite(official):
        yield f"{path.name}: {dimension}: the official value is {official!r:.40}, which is not a number"
        return
    ours = pool_dimension(dimension, scores).value
    if ours is not None and abs(ours - official) > AGGREGATE_TOLERANCE * max(1.0, abs(official)):
        yield (
            f"{path.name}: {dimension}: the official value is {official:.6g}, but its clips give "
            f"{ours:.6g}; the official code pools differently on several GPUs"
        )


def _of_dimension(
    dimension: str,
    records: list[Any],
    exported: Mapping[tuple[str, str], Exported],
    path: Path,
    problems: list[Problem],
) -> list[tuple[Exported, Score]]:
    results = {}
    for record in records:
        name = Path(str(record.get("video_path"))).name if isinstance(record, dict) else ""
        clip = exported.get((dimension, name))
        if clip is None:
            problems.append(
                Problem(f"{name or record!r:.200} was not exported for this dimension", file=str(path), field=dimension)
            )
            continue
        if name in results:
            problems.append(Problem(f"{printable(name[:80])} is listed twice", file=str(path), field=dimension))
        results[name] = (clip, _score(dimension, record, clip, path))
    left_out = [item for (of, name), item in exported.items() if of == dimension and name not in results]
    reason = f"the official results do not contain this clip ({path.name})"
    return [*results.values(), *((item, not_scored(reason)) for item in left_out)]


def _score(dimension: str, record: Mapping[str, Any], clip: Exported, path: Path) -> Score:
    value = record.get("video_results")
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        return not_scored(f"the official result is {value!r} ({path.name})")
    return Score(float(value), weight=_weight(dimension, clip), details={"imported_from": path.name})


def _weight(dimension: str, clip: Exported) -> float:
    """Return how much the clip counts in the official pooling."""
    if dimension in ("subject_consistency", "background_consistency"):
        return float(max(clip.frames - 1, 1))
    if dimension in _DETECTED:
        return float(DETECTOR_FRAMES)
    return float(clip.frames) if dimension == "appearance_style" else 1.0


def _frame_counts(videos: set[Path]) -> dict[Path, int]:
    counts, problems = {}, []
    for video in sorted(videos):
        if video.suffix.lower() != ".mp4":
            problems.append(Problem(f"{video} is not an .mp4: the official code reads nothing else", field="video"))
            continue
        try:
            counts[video] = _count_frames(video)
        except RefusedError as error:
            problems.append(Problem(str(error), field="video"))
    if problems:
        raise InputError(problems)
    return counts


def _count_frames(video: Path) -> int:
    try:
        with open_media(video) as container:
            return sum(1 for packet in container.demux(video_stream(container)) if packet.size)
    except UnreadableMediaError as error:
        raise RefusedError(f"{video}: {error}", code="eval_clip_unreadable") from error


def _place(source: Path, target: Path) -> None:
    """Hard-link the file, or copy it. An existing file or link of that name is never overwritten or followed."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another disk, or one without links
        with open_regular_file(source, what="the clip") as file, target.open("xb") as copy:
            shutil.copyfileobj(file, copy)
