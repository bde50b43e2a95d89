"""Prompts and seeds of a user's own videos: from a prompts file, or a manifest of `vgen results --download`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import output
from pipeline.errors import InputError, Problem
from pipeline.files.json_reader import JsonError, parse_json, read_json
from pipeline.files.names import printable
from pipeline.files.pipes import read_file_or_pipe
from pipeline.scoring.suite_jobs import entry_of

MANIFEST = "manifest.jsonl"
MAX_FILE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """The prompt, seed and labels of one video."""

    prompt: str | None = None
    seed: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def clip_fields(self) -> dict[str, Any]:
        """The fields of a ``ClipToScore``; for a suite's clip also its entry, dimensions and auxiliary facts."""
        entry = entry_of(self.labels)
        fields: dict[str, Any] = {"prompt": self.prompt, "seed": self.seed}
        if entry is None:
            return fields
        return {**fields, "entry": entry.index, "auxiliary": entry.auxiliary, "dimensions": entry.dimensions}


def read_prompts(path: Path, videos: Sequence[Path]) -> list[str | None]:
    """The prompt of each video, from a JSON object ``{video: prompt}``, the form of VBench's own; None if it has none.

    A video is named by its path, relative to the file's folder or the current folder, or by its file name if no other
    video has the same file name.

    Raises:
        InputError: the file is not a JSON object of this form, does not name most of the videos (``lacking``), or uses
            a file name that two videos have.
    """
    content = read_json(path, what="the file of prompts", limit_bytes=MAX_FILE_BYTES)
    if not isinstance(content, dict) or not content:
        raise InputError([Problem("the content is not a JSON object {video: prompt}", file=str(path))])
    problems = [
        Problem(f"{prompt!r:.80} is not a valid prompt: use a text that is not empty", file=str(path), field=name[:100])
        for name, prompt in content.items()
        if not isinstance(prompt, str) or not prompt.strip()
    ]
    names = [video.name for video in videos]
    by_path = {(base / name).resolve(): name for base in (Path(), path.parent) for name in content}
    prompts: list[str | None] = []
    for video in videos:
        name = by_path.get(video.resolve())
        if name is None and video.name in content:
            name = video.name
            if names.count(name) > 1:
                problems.append(
                    Problem(f"{name!r} is the file name of {names.count(name)} videos: use their paths", file=str(path))
                )
        prompts.append(None if name is None else content[name])
    if problems:
        raise InputError(problems)
    lacking(
        [
            Problem(f"the file of prompts does not name {printable(str(video))}", file=str(path))
            for video, prompt in zip(videos, prompts, strict=True)
            if prompt is None
        ],
        len(videos),
    )
    return prompts


def lacking(problems: Sequence[Problem], videos: int) -> None:
    """Name the videos that have no prompt, reference or picture: they are not scored by what needs it, the rest is.

    Raises:
        InputError: more than half of the videos have none: then it is the file or folder that is wrong.
    """
    if 2 * len(problems) > videos:
        raise InputError(problems)
    for problem in problems:
        output.notice(str(problem))


def read_manifest(folder: Path) -> dict[str, Facts]:
    """Facts by file name from the folder's ``manifest.jsonl``; empty if the folder has no manifest.

    Raises:
        InputError: the file is not a manifest that `vgen results --download` wrote.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    data = read_file_or_pipe(path, what="the manifest", limit_bytes=MAX_FILE_BYTES)
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError([Problem("the manifest is not UTF-8 text", file=str(path))]) from error
    facts: dict[str, Facts] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except JsonError as error:
            raise InputError([Problem(f"the line is not JSON: {error.message}", str(path), number)]) from None
        name, job = (entry.get("file"), entry.get("job")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(job, dict) or not isinstance(job.get("prompt"), str):
            rule = "the line has no file and job with a prompt, as `vgen results --download` writes them"
            raise InputError([Problem(rule, str(path), number)])
        seed, labels = job.get("seed"), job.get("labels")
        texts = {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}
        facts[name] = Facts(job["prompt"], seed if type(seed) is int else None, texts)
    return facts
