"""Scoring many clips: decoded once, loaded once, and one broken clip costs only itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutOfMemoryError, RefusedError, SettingsError
from pipeline.scoring import METRICS, Clip, Context, Expected, Metric, Models, Score, Weights, run
from pipeline.scoring.clip import read_clip
from pipeline.scoring.run import ClipToScore, as_json, fingerprint, score_clips
from tests.unit.pipeline.scoring.conftest import DATA

CLIPS = DATA / "clips"
FREE = [METRICS[name] for name in ("checks.black", "vbench.temporal_flickering", "checks.fps")]


def test_each_clip_is_decoded_once_and_each_family_loaded_once(
    weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counting(path: Path, max_bytes: int) -> Clip:
        decoded.append(path.stem)
        return read_clip(path, max_bytes)

    monkeypatch.setattr(run, "read_clip", counting)
    models = Models(Weights(weights_folder))
    loads: list[str] = []
    require = models.weights.require
    monkeypatch.setattr(models.weights, "require", lambda name: loads.append(name) or require(name))
    metrics = [METRICS[f"vbench.{name}"] for name in ("temporal_style", "overall_consistency", "temporal_flickering")]
    clips = [ClipToScore(CLIPS / f"{name}.mp4", "a bike") for name in ("two_frames", "three_frames")]

    found = list(score_clips(clips, metrics, models))

    assert decoded == ["two_frames", "three_frames"]
    assert loads == list(METRICS["vbench.temporal_style"].weights)
    assert [len(one.scores) for one in found] == [3, 3]
    assert found[0].scores["vbench.temporal_style"] == found[0].scores["vbench.overall_consistency"]


def test_a_broken_clip_is_not_scored_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    found = list(score_clips([ClipToScore(broken), ClipToScore(CLIPS / "cut.mp4")], FREE, Models()))
    assert "cannot be decoded" in (found[0].problem or "")
    assert {score.score for score in found[0].scores.values()} == {None}
    assert found[1].problem is None
    assert found[1].scores["checks.black"].score == 0.0


def test_dimensions_on_the_same_weights_share_one_model(weights_folder: Path) -> None:
    models = Models(Weights(weights_folder))
    images, text = models.get("clip_b32"), models.get("clip_b32_text")
    assert text._images is images
    assert list(models.digests("clip_b32_text")) == ["ViT-B-32.pt", "bpe_simple_vocab_16e6.txt.gz"]
    models.unload()
    assert models.get("clip_b32") is not images


def test_missing_weights_end_the_run() -> None:
    with pytest.raises(RefusedError, match=r"raft-things\.pth is not on this machine"):
        list(score_clips([ClipToScore(CLIPS / "cut.mp4")], [METRICS["vbench.dynamic_degree"]], Models()))


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "is not a device; use one of: cpu, cuda"), ("cuda:7", "torch finds"), ("meta", "is not a device")],
)
def test_a_device_that_is_not_here_is_said(weights_folder: Path, device: str, message: str) -> None:
    models = Models(Weights(weights_folder), device)
    with pytest.raises(SettingsError, match=message):
        list(score_clips([ClipToScore(CLIPS / "cut.mp4")], [METRICS["vbench.dynamic_degree"]], models))


def test_too_little_memory_names_clip_and_metric() -> None:
    def greedy(_clip: Clip, _context: Context) -> Score:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match=r"cut\.mp4, 10 frames of 128x128: too little memory for test\.greedy"):
        list(score_clips([ClipToScore(CLIPS / "cut.mp4")], [Metric("test.greedy", "", greedy)], Models()))


def test_a_suites_clip_is_scored_in_its_dimensions_only() -> None:
    clip = ClipToScore(CLIPS / "cut.mp4", dimensions=("color",), expected=Expected(fps=16))
    (found,) = score_clips([clip], FREE, Models())
    assert sorted(found.scores) == ["checks.black", "checks.fps"]


def test_the_json_shape_is_the_references(weights_folder: Path, clip_of: Callable[[str], Clip]) -> None:
    models = Models(Weights(weights_folder))
    metrics = [METRICS["vbench.aesthetic_quality"], METRICS["vbench.subject_consistency"]]
    clip = ClipToScore(CLIPS / "one_frame.mp4", entry=3, seed=7)
    (found,) = score_clips([clip], metrics, models)
    shown: dict[str, Any] = as_json(found, {metric.name: fingerprint(metric, models) for metric in metrics})
    assert (shown["video"], shown["entry"], shown["seed"]) == (str(clip.video), 3, 7)
    aesthetic = shown["scores"]["vbench.aesthetic_quality"]
    assert set(aesthetic) == {"name", "score", "details"}
    assert aesthetic["details"]["scorer"]["weights"].keys() == {"ViT-L-14.pt", "sa_0_4_vit_l_14_linear.pth"}
    assert aesthetic["details"]["scorer"]["device"] == "cpu"
    assert shown["scores"]["vbench.subject_consistency"] == {
        "name": "vbench.subject_consistency",
        "score": None,
        "details": {"reason": "needs at least 2 frames; this clip has 1"},
    }
