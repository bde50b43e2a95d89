"""Evaluation runs as they are compared: clips keyed by suite entry and seed."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import InputError, Problem
from pipeline.scoring.metric import Score
from pipeline.scoring.score_file import Record, read_scores, score_of


class Key(NamedTuple):
    """The key of a suite's clip. The same prompt under two entries is two prompts."""

    entry: int
    seed: int


@dataclass(frozen=True, slots=True)
class RunClip:
    """One clip of a run.

    ``pixels`` is ``clip.pixel_digest`` of its frames and ``sound`` the digest of its sound, or, of a batch's clip, the
    former alone is the digest of all that decides both (``db.evals.identity``); None where nobody computed it.
    """

    video: str
    scores: Mapping[str, Score]
    pixels: str | None = None
    prompt: str | None = None
    sound: str | None = None
    key: str | None = None
    """Its object in the store, where ``video`` is an address that plays."""
    poster: str | None = None
    """The address of its picture."""
    page: str | None = None
    """The address of its page on a server."""
    made: Mapping[str, Any] | None = None
    """How it was made, as ``db.evals.making`` says; None where nobody does."""


@dataclass(frozen=True, slots=True)
class Run:
    """An evaluation run."""

    name: str
    clips: Mapping[Key, RunClip] = field(default_factory=dict)

    def scorers(self, metric: str) -> frozenset[str]:
        """Return how this metric's numbers were made, as JSON texts: more than one is a mixed run."""
        scores = (clip.scores[metric] for clip in self.clips.values() if metric in clip.scores)
        return frozenset(_scorer(score) for score in scores if score.score is not None)

    def mean(self, metric: str) -> float | None:
        """Mean over prompts of the mean over seeds, as runs are compared; None when nothing was scored."""
        by_entry: dict[int, list[float]] = {}
        for key, clip in self.clips.items():
            score = clip.scores.get(metric)
            if score is not None and score.score is not None and math.isfinite(score.score):
                by_entry.setdefault(key.entry, []).append(score.score)
        means = [sum(scores) / len(scores) for scores in by_entry.values()]
        return sum(means) / len(means) if means else None


def read_run(path: Path) -> Run:
    """A score file as a run.

    Raises:
        InputError: the file is not a score file, or a clip has no entry and seed and so no partner in another run.
        OSError: the file cannot be read.
    """
    return run_of(read_scores(path), str(path))


def run_of(records: Sequence[Record], name: str) -> Run:
    """Records of a score file as a run. Records of one clip are put together, the later ones win.

    Raises:
        InputError: a record has no entry or seed, two clips have the same ones, or there is no clip.
    """
    clips: dict[Key, RunClip] = {}
    problems = []
    for number, record in enumerate(records):
        entry, seed = record.get("entry"), record.get("seed")
        if type(entry) is not int or type(seed) is not int:
            rule = "only clips with an entry and a seed (`vgen eval run --manifest`) can be compared"
            problems.append(Problem(f"entry {entry!r}, seed {seed!r}: {rule}", file=name, field=f"record {number}"))
            continue
        key = Key(entry, seed)
        scores = {metric: score_of(raw) for metric, raw in record["scores"].items()}
        before = clips.get(key)
        if before is not None and _are_two(before, record, scores):
            twice = f"entry {entry}, seed {seed}: there are two clips of it, {before.video} and {record['video']}"
            problems.append(Problem(twice, file=name, field=f"record {number}"))
        if before is not None:
            scores = {**before.scores, **scores}
        pixels = record.get("pixels") or (before.pixels if before else None)
        prompt = record.get("prompt") or (before.prompt if before else None)
        sound = record.get("sound") or (before.sound if before else None)
        clips[key] = RunClip(
            str(record["video"]), scores, pixels, prompt, sound, record.get("key"),
            *(record.get(name) or (getattr(before, name) if before else None) for name in ("poster", "page", "made")),
        )  # fmt: skip
    if problems:
        raise InputError(problems)
    if not clips:
        raise InputError([Problem("the run has no clips", file=name)])
    return Run(name, clips)


def playable(records: Sequence[Mapping[str, Any]], url: Callable[[str], str], site: str | None = None) -> list[Record]:
    """Records of rows with addresses in place of the store's keys; those of clips that are files stay as they are.

    ``url`` gives an object's address, ``site`` is that of the server whose pages show the jobs, if there is one.
    """
    return [_playable(record, url, site) if record.get("job") else dict(record) for record in records]


def _playable(record: Mapping[str, Any], url: Callable[[str], str], site: str | None) -> Record:
    poster = {"poster": url(record["poster"])} if record.get("poster") else {}
    page = {"page": f"{site.rstrip('/')}/jobs/{record['job']}"} if site else {}
    return {**record, "key": record["video"], "video": url(record["video"]), **poster, **page}


def _are_two(before: RunClip, record: Record, scores: Mapping[str, Score]) -> bool:
    """Return whether a record is of another clip than the one before, which it would replace."""
    pixels = record.get("pixels")
    other_pixels = pixels is not None and before.pixels is not None and pixels != before.pixels
    return before.video != record["video"] and (other_pixels or bool(before.scores.keys() & scores.keys()))


def identical(baseline: Run, candidate: Run) -> bool:
    """Return whether both runs have the same clips, which look and sound the same, so that no scores are needed."""
    if baseline.clips.keys() != candidate.clips.keys():
        return False
    pairs = ((clip, candidate.clips[key]) for key, clip in baseline.clips.items())
    return all(
        before.pixels is not None and (before.pixels, before.sound) == (after.pixels, after.sound)
        for before, after in pairs
    )


def median_run(runs: Sequence[Run]) -> Run:
    """A baseline of the last passed runs, oldest first: of each metric, the scores of the run with the median mean.

    Not each clip's median: where clips fail now and then, that is better than any run ever was, and a model that did
    not change would look worse. Only runs with the last run's clips and its scorer are taken; the videos are the last
    run's.

    Raises:
        InputError: there is no run.
    """
    if not runs:
        raise InputError("a baseline needs at least one passed run")
    last = runs[-1]
    alike = [run for run in runs if run.clips.keys() == last.clips.keys()]
    scores: dict[Key, dict[str, Score]] = {key: {} for key in last.clips}
    for metric in dict.fromkeys(name for clip in last.clips.values() for name in clip.scores):
        chosen = _median_by_mean([run for run in alike if run.scorers(metric) == last.scorers(metric)], metric)
        for key, clip in chosen.clips.items():
            if metric in clip.scores:
                scores[key][metric] = clip.scores[metric]
    clips = {key: replace(clip, scores=scores[key]) for key, clip in last.clips.items()}
    names = [run.name for run in alike]
    return Run(names[0] if len(names) == 1 else f"median of {len(names)} runs: {', '.join(names)}", clips)


def _median_by_mean(runs: Sequence[Run], metric: str) -> Run:
    """The last run where none has a score; of an even number the upper one in the middle."""
    means = [(mean, index) for index, run in enumerate(runs) if (mean := run.mean(metric)) is not None]
    return runs[sorted(means)[len(means) // 2][1]] if means else runs[-1]


def combined(first: Run, second: Run) -> Run:
    """Two seed sets of one model as one run. Raises InputError if both have the same clip, which would count twice."""
    shared = sorted(first.clips.keys() & second.clips.keys())
    if shared:
        entry, seed = shared[0]
        raise InputError(f"{first.name} and {second.name} both have entry {entry}, seed {seed}: take other seeds")
    return Run(f"{first.name} + {second.name}", {**first.clips, **second.clips})


def _scorer(score: Score) -> str:
    """How the score was computed, as a JSON text, without the clip that it was compared with."""
    scorer = score.details.get("scorer")
    if isinstance(scorer, Mapping):
        scorer = {name: value for name, value in scorer.items() if name != "reference"}
    return json.dumps(scorer, sort_keys=True)
