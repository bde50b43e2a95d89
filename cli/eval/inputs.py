"""The clips that `vgen eval run` scores, and what belongs to each."""

import dataclasses
import glob
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.eval import own_videos
from pipeline.errors import InputError, Problem
from pipeline.files.names import printable
from pipeline.scoring import Expected
from pipeline.scoring.exchange import read_manifest
from pipeline.scoring.run import ClipToScore
from pipeline.scoring.suite import find_suite, read_suite

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif"})


@dataclasses.dataclass(frozen=True)
class ExpectedOptions:
    """The expected properties of the clips, for the checks."""

    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Expected frame rate of the videos; also the rate of files that do not say theirs."),
    ] = None
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Expected number of frames.")] = None
    size: Annotated[str | None, typer.Option("--size", metavar="WIDTHxHEIGHT", help="Expected size in pixels.")] = None

    def expected(self) -> Expected:
        """Checked values. Raises InputError."""
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise InputError([Problem(f"{self.fps} is not above 0", field="--fps")])
        if self.num_frames is not None and self.num_frames < 1:
            raise InputError([Problem(f"{self.num_frames} is not above 0", field="--num-frames")])
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.size) if self.size is not None else None
        if self.size is not None and match is None:
            raise InputError([Problem(f"{self.size!r} is not of the form 832x480", field="--size")])
        width, height = (int(match[1]), int(match[2])) if match else (None, None)
        return Expected(self.num_frames, self.fps, width, height)


def clips_of(
    videos: Sequence[str],
    reference: Path | None,
    image: Path | None,
    prompts: Sequence[str],
    prompts_file: Path | None,
    manifest: Path | None,
    suite: Path | None,
    expected: Expected,
) -> list[ClipToScore]:
    """The clips of the command line, or of a manifest.

    What a ``manifest.jsonl`` in a video's folder says of it (`vgen results --download` writes one) belongs to it.

    Raises:
        InputError: no videos, both sources, prompts or references that do not fit the videos.
    """
    if manifest is not None:
        if videos or prompts or prompts_file is not None or reference is not None or image is not None:
            message = "cannot be combined with videos, --reference, --image, --text-prompt or --prompts"
            raise InputError([Problem(message, field="--manifest")])
        return _of_suite(manifest, suite, expected)
    if prompts and prompts_file is not None:
        raise InputError([Problem("goes with no --text-prompt", field="--prompts")])
    if not videos:
        raise InputError([Problem("give videos, or --manifest", field="VIDEO")])
    paths = expand(videos)
    if len(prompts) not in (0, 1, len(paths)):
        message = f"{len(prompts)} were given for {len(paths)} videos: give one for all, or one for each"
        raise InputError([Problem(message, field="--text-prompt")])
    texts: Sequence[str | None] | None = None
    if prompts:
        texts = [*prompts] if len(prompts) == len(paths) else [prompts[0]] * len(paths)
    elif prompts_file is not None:
        texts = own_videos.read_prompts(prompts_file, paths)
    facts = _facts_of(paths) if texts is None else [own_videos.Facts(text) for text in texts]
    return [
        ClipToScore(video, expected=expected, reference=other, image=picture, **fact.clip_fields)
        for video, fact, other, picture in zip(
            paths, facts, _references(paths, reference), _images(paths, image), strict=True
        )
    ]


def lacks_its_inputs(clip: ClipToScore, prompts_file: Path | None) -> bool:
    """Return whether the clip's reference or picture is not there, or a file of prompts names it not."""
    lost = any(path is not None and not path.is_file() for path in (clip.reference, clip.image))
    return lost or (prompts_file is not None and clip.prompt is None)


def _images(videos: Sequence[Path], image: Path | None) -> list[Path | None]:
    """The picture that each video was made from: one for all, or the one in a folder that has the video's name.

    Raises:
        InputError: the picture does not exist, a video has several in the folder, or most have none.
    """
    if image is None or image.is_file():
        return [image] * len(videos)
    if not image.is_dir():
        raise InputError([Problem(f"{image} does not exist", field="--image")])
    by_stem: dict[str, list[Path]] = {}
    for file in sorted(image.iterdir()):
        if file.suffix.lower() in PICTURES:
            by_stem.setdefault(file.stem, []).append(file)
    missing: list[Problem] = []
    several: list[Problem] = []
    for video in videos:
        count = len(by_stem.get(video.stem, []))
        rule = f"it needs one of that name, as {' or '.join(sorted(PICTURES))}"
        problem = Problem(f"{image} has {count} pictures for {printable(video.name)}: {rule}", field="--image")
        if count != 1:
            (several if count else missing).append(problem)
    if several:
        raise InputError([*missing, *several])
    own_videos.lacking(missing, len(videos))
    # A picture that is not there is named by where it was looked for, so that its clip is not scored with that reason.
    return [by_stem.get(video.stem, [image / f"{video.stem}.png"])[0] for video in videos]


def _facts_of(videos: Sequence[Path]) -> list[own_videos.Facts]:
    """The facts of each video from the manifest in its folder. A manifest that cannot be read is named and ignored."""
    by_folder: dict[Path, dict[str, own_videos.Facts]] = {}
    for folder in dict.fromkeys(video.parent for video in videos):
        try:
            by_folder[folder] = own_videos.read_manifest(folder)
        except InputError as error:
            by_folder[folder] = {}
            output.notice(f"not read: {error}")
    return [by_folder[video.parent].get(video.name, own_videos.Facts()) for video in videos]


def expand(patterns: Sequence[str]) -> list[Path]:
    """The videos of files, globs and folders (with all below them), each once, in order.

    Raises:
        InputError: each pattern that gives no video.
    """
    paths: dict[Path, Path] = {}
    problems = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            # A link that leads nowhere is a video that cannot be read, and is said to be.
            matches = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES and (file.is_file() or file.is_symlink())
            )
            wrong = f"{pattern}: no videos in this folder ({', '.join(sorted(SUFFIXES))})"
        elif path.exists():
            matches, wrong = [path], ""
        else:
            matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]  # noqa: PTH207
            wrong = f"{pattern}: the file or folder does not exist, and no file matches the pattern"
        if not matches:
            problems.append(Problem(wrong, field="VIDEO"))
        for match in matches:
            paths.setdefault(match.resolve(), match)
    if problems:
        raise InputError(problems)
    return list(paths.values())


def _references(videos: Sequence[Path], reference: Path | None) -> list[Path | None]:
    if reference is None:
        return [None] * len(videos)
    if reference.is_dir():
        pairs = [reference / video.name for video in videos]
        own_videos.lacking(
            [
                Problem(f"{printable(str(pair))} is not there", field="--reference")
                for pair in pairs
                if not pair.is_file()
            ],
            len(videos),
        )
        return list(pairs)
    if not reference.is_file():
        raise InputError([Problem(f"{printable(str(reference))} is not there", field="--reference")])
    if len(videos) != 1:
        message = f"{reference} is one file, and there are {len(videos)} videos: give a folder of references"
        raise InputError([Problem(message, field="--reference")])
    return [reference]


def _of_suite(manifest: Path, suite: Path | None, expected: Expected) -> list[ClipToScore]:
    parsed = read_suite(find_suite(suite))
    clips = []
    for clip in read_manifest(manifest, parsed):
        entry = parsed.entries[clip.entry]
        clips.append(
            ClipToScore(
                clip.video,
                entry.prompt,
                auxiliary=entry.auxiliary,
                expected=expected,
                entry=clip.entry,
                seed=clip.seed,
                dimensions=entry.dimensions,
            )
        )
    return clips
