"""`vgen eval run FOLDER` over corner cases of clips and of folders, with tiny weights of the real architectures."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.scoring import METRICS
from tests.unit.cli.conftest import Vgen
from tests.unit.pipeline.scoring.conftest import DATA, _no_hub_cache, oracle, weights_folder

__all__ = ["_no_hub_cache", "oracle", "weights_folder"]
CLIPS = ("cut", "noise", "ntsc", "odd_sizes", "seven_frames", "static", "tall", "three_frames", "two_frames", "wide")
"""Odd sizes, 16:9, 9:16; 2, 3 and 7 frames; 8, 12, 16, 24 and 29.97 fps; static, noise, a cut."""
NATIVE = sorted(metric.name for metric in METRICS.values() if metric.group == "vbench" and not metric.external)
OF_ALL = (
    *("vbench.aesthetic_quality", "vbench.appearance_style", "vbench.background_consistency"),
    *("vbench.subject_consistency", "vbench.temporal_flickering"),
)
"""The others take longer for these clips; test_oracle.py has them, without the command."""
TOLERANCE = 1e-6


def score(vgen: Vgen, folder: Path, metrics: list[str], weights: Path, prompts: list[str]) -> dict[str, dict[str, Any]]:
    """Scores by clip and metric, read from the file that the command wrote."""
    target = folder.parent / "scores.json"
    texts = [word for prompt in prompts for word in ("--text-prompt", prompt)]
    command = ("eval", "run", folder, "--metrics", ",".join(metrics), "--weights", weights, "--output", target, *texts)
    done = vgen(*command)
    assert done.code == 0, done.err
    written = json.loads(target.read_text("utf-8"))
    assert all(set(record) == {"video", "prompt", "pixels", "sha256", "inputs", "scores"} for record in written)
    for record in written:
        assert sorted(record["scores"]) == metrics
        for name, found in record["scores"].items():
            assert set(found) == {"name", "score", "details"}
            assert found["name"] == name
            assert "weight" in found["details"] if found["score"] is not None else found["details"]["reason"]
    return {Path(record["video"]).stem: record["scores"] for record in written}


def folder_of(tmp_path: Path, names: tuple[str, ...]) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in names:
        shutil.copyfile(DATA / "clips" / f"{name}.mp4", folder / f"{name}.mp4")
    return folder


def test_a_folder_of_corner_cases_has_the_official_scores(
    vgen: Vgen, tmp_path: Path, weights_folder: Path, oracle: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path, CLIPS)

    found = score(vgen, folder, [*OF_ALL], weights_folder, [oracle["prompts"][name] for name in CLIPS])

    assert sorted(found) == list(CLIPS)
    for clip, scores in found.items():
        for name, made in scores.items():
            official = oracle["dimensions"][name.partition(".")[2]].get(clip)
            if name == "vbench.appearance_style":
                assert "needs the suite's auxiliary_info for appearance_style" in made["details"]["reason"]
            else:
                assert made["score"] == pytest.approx(official, abs=TOLERANCE, rel=0), (clip, name)


def test_every_native_dimension_scores_the_shortest_clip(
    vgen: Vgen, tmp_path: Path, weights_folder: Path, oracle: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path, ("two_frames",))

    (scores,) = score(vgen, folder, NATIVE, weights_folder, ["a person is riding a bike"]).values()

    assert [name for name, made in scores.items() if made["score"] is None] == ["vbench.appearance_style"]
    for name in ("vbench.dynamic_degree", "vbench.imaging_quality"):
        official = oracle["dimensions"][name.partition(".")[2]]["two_frames"]
        wanted = float(official["dynamic"]) if isinstance(official, dict) else official
        assert scores[name]["score"] == pytest.approx(wanted, abs=TOLERANCE, rel=0)


def write(path: Path, frames: int, *, codec: str = "libx264", **options: str) -> Path:
    """A clip of noise; with no frames, what was left by a program that ended before it had one."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
        for number in range(frames):
            pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def test_what_is_no_video_costs_only_itself(vgen: Vgen, tmp_path: Path) -> None:
    # Given good clips under odd names, and everything that can be wrong with a file
    folder = folder_of(tmp_path, ("wide",))
    named = folder / "ночь 夜 – é & <b> $HOME;.mp4"
    shutil.copyfile(folder / "wide.mp4", named)
    (folder / "deep" / "er").mkdir(parents=True)
    shutil.copyfile(folder / "wide.mp4", folder / "deep" / "er" / "WIDE.MP4")
    (folder / "z-again.mp4").symlink_to("wide.mp4")
    (folder / "notes.txt").write_text("no video, by its name")
    bad = {
        "text.mp4": "it cannot be decoded",
        "empty.mp4": "it cannot be decoded",
        "gone.mp4": "No such file",
        "cut off.mp4": "it cannot be decoded",
        "cut off.webm": "it is cut short: 1.25 s of 2.12 s are there",
        "no frames.mp4": "it has no frames",
    }
    (folder / "text.mp4").write_text("this is no video")
    (folder / "empty.mp4").touch()
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    write(folder / "no frames.mp4", 0, movflags="empty_moov+frag_keyframe")
    for name, codec, part in (("cut off.mp4", "libx264", 0.6), ("cut off.webm", "libvpx-vp9", 0.6)):
        whole = write(folder / name, 17, codec=codec).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * part)])

    done = vgen("eval", "run", folder, "--metrics", "checks.black,vbench.temporal_flickering", "--json")

    # Then each bad one is said with its reason and never scored, and each good one is scored once
    assert done.code == 3
    found = {str(Path(clip["video"]).relative_to(folder)): clip["scores"] for clip in done.json["clips"]}
    assert sorted(found) == sorted([*bad, "wide.mp4", named.name, "deep/er/WIDE.MP4"])
    for name, reason in bad.items():
        for made in found.pop(name).values():
            assert made["score"] is None
            assert reason in made["details"]["reason"], name
        assert f"not read: {folder / name}: " in done.err
    flickers = {scores["vbench.temporal_flickering"]["score"] for scores in found.values()}
    assert len(flickers) == 1
    assert None not in flickers
