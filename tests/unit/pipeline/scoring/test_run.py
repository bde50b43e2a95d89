"""Scoring many clips: decoded once, loaded once, and one broken clip costs only itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

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


def _greedy(_clip: Clip, _context: Context) -> Score:
    raise MemoryError


def _broken(_clip: Clip, _context: Context) -> Score:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand a trace")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_greedy, "cut.mp4, 10 frames of 128x128: too little memory for test.failing"),
        (_broken, "test.failing failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_metric_that_fails_costs_a_clip_that_score_alone(function: Any, reason: str) -> None:
    metrics = [Metric("test.failing", "", function), *FREE]
    clips = [ClipToScore(CLIPS / f"{name}.mp4") for name in ("cut", "static")]

    found = list(score_clips(clips, metrics, Models()))

    failed = found[0].scores["test.failing"]
    assert (failed.score, failed.details["failed"]) == (None, True)
    assert (failed.reason or "").endswith(reason)
    assert [one.scores["checks.black"].score for one in found] == [0.0, 0.0]


def test_a_metric_that_must_not_fail_ends_the_run() -> None:
    clips, greedy = [ClipToScore(CLIPS / "cut.mp4")], [Metric("test.greedy", "", _greedy)]
    with pytest.raises(OutOfMemoryError, match=r"cut\.mp4, 10 frames of 128x128: too little memory for test\.greedy"):
        list(score_clips(clips, greedy, Models(), required=["test.greedy"]))
    with pytest.raises(RuntimeError, match="shapes"):
        list(score_clips(clips, [Metric("test.broken", "", _broken)], Models(), strict=True))


def test_weights_that_are_none_of_their_model_are_read_once_and_cost_its_metrics_alone(
    tmp_path: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in weights_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "dino_vitbase16_pretrain.pth").unlink()
    (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"no weights")
    models = Models(Weights(tmp_path))
    reads: list[str] = []
    require = models.weights.require
    monkeypatch.setattr(models.weights, "require", lambda name: reads.append(name) or require(name))
    metrics = [METRICS["vbench.subject_consistency"], METRICS["vbench.background_consistency"]]
    clips = [ClipToScore(CLIPS / f"{name}.mp4") for name in ("two_frames", "three_frames")]

    found = list(score_clips(clips, metrics, models))

    for one in found:
        subject, background = one.scores.values()
        assert (subject.reason or "").startswith(f"weights {tmp_path / 'dino_vitbase16_pretrain.pth'}: it cannot be")
        assert background.score is not None
    assert reads.count("dino_vitbase16_pretrain.pth") == 1
    with pytest.raises(RefusedError, match="it cannot be read"):
        list(score_clips(clips, metrics, models, required=["vbench.subject_consistency"]))


def test_numbers_that_are_none_are_no_scores(tmp_path: Path, weights_folder: Path, clip_of: Any) -> None:
    """Weights with NaN in them: the clip is not scored by any model, and what is written is JSON."""
    for path in weights_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name, key in (
        ("dino_vitbase16_pretrain.pth", "norm.weight"),
        ("l16_ptk710_ftk710_ftk400_f16_res224.pth", "head.bias"),
        ("musiq_spaq_ckpt-358bb6af.pth", "head.bias"),
    ):
        state = torch.load(weights_folder / name)
        state[key] = torch.full_like(state[key], float("nan"))
        (tmp_path / name).unlink()
        torch.save(state, tmp_path / name)
    names = ("subject_consistency", "human_action", "imaging_quality")
    metrics = [METRICS[f"vbench.{name}"] for name in names]
    clip = ClipToScore(CLIPS / "two_frames.mp4", "a person is riding a bike")

    (found,) = score_clips([clip], metrics, Models(Weights(tmp_path)))

    assert {score.score for score in found.scores.values()} == {None}
    assert all("not a" in (score.reason or "") for score in found.scores.values())
    json.dumps(as_json(found, {}), allow_nan=False)


def test_details_that_are_no_numbers_are_left_out_of_them() -> None:
    found = Metric(
        "test.nan", "", lambda *_: Score(1.0, details={"speeds": [1.0, float("nan")], "of": {"x": float("inf")}})
    ).score(read_clip(CLIPS / "cut.mp4"), Context(Models()))
    assert found.details == {"speeds": [1.0, None], "of": {"x": None}}


@pytest.mark.parametrize("max_bytes", [run.MAX_BYTES, 1])
def test_the_next_clip_is_decoded_while_one_is_scored_unless_it_is_large(max_bytes: int) -> None:
    names = ("two_frames", "three_frames", "cut")
    begun = {name: threading.Event() for name in names}

    def loading(name: str) -> Any:
        def call() -> run.Loaded:
            begun[name].set()
            return run.load(ClipToScore(CLIPS / f"{name}.mp4"), FREE)

        return call

    seen = []
    for loaded in run.ahead(map(loading, names), max_bytes):
        seen.append(loaded.item.video.stem)
        if len(seen) < len(names):
            following = begun[names[len(seen)]]
            assert following.wait(30) if max_bytes > 1 else not following.is_set()
    assert tuple(seen) == names


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


def test_a_clip_that_is_one_long_line_is_not_scored_by_models(models: Models, tmp_path: Path) -> None:
    """It would be half a million pixels wide before DINO."""
    with av.open(str(tmp_path / "line.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 1024, 2, "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((2, 1024, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    metrics = [METRICS[name] for name in ("checks.black", "vbench.subject_consistency", "vbench.imaging_quality")]
    (found,) = score_clips([ClipToScore(tmp_path / "line.mkv")], metrics, models)
    black, *others = found.scores.values()
    assert black.score == 1.0
    reason = "the clip is 1024x2; models look at clips whose one side is at most 16 times the other"
    assert [score.reason for score in others] == [reason] * 2
