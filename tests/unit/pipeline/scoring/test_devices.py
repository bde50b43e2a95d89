"""Several devices on a list of clips, and precisions. Two CPU "devices" stand for two GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import SettingsError
from pipeline.scoring import METRICS, Clip, Context, Metric, Models, Score, Weights, registry
from pipeline.scoring.devices import score_on
from pipeline.scoring.models import pixels
from pipeline.scoring.run import ClipToScore, fingerprint, score_clips
from tests.unit.pipeline.scoring.conftest import DATA

NAMES = ("cut", "one_frame", "black", "two_frames", "three_frames", "static")
CLIPS = [ClipToScore(DATA / "clips" / f"{name}.mp4", "a bike") for name in NAMES]
BROKEN = ClipToScore(Path(__file__))


def test_results_are_those_of_one_device_in_the_order_of_the_clips(weights_folder: Path) -> None:
    metrics = [METRICS[name] for name in ("vbench.background_consistency", "checks.black")]
    clips = [*CLIPS[:3], BROKEN, *CLIPS[3:]]
    alone = list(score_clips(clips, metrics, Models(Weights(weights_folder))))
    devices = [Models(Weights(weights_folder)) for _ in range(2)]

    together = list(score_on(clips, metrics, devices))

    assert [one.scores for one in together] == [one.scores for one in alone]
    assert [one.clip for one in together] == clips


def _together(parties: int) -> Metric:
    """A metric that waits until so many clips are scored at once, and says which thread scored each."""
    barrier = threading.Barrier(parties)

    def score(_clip: Clip, _context: Context) -> Score:
        barrier.wait(30)
        return Score(1.0, details={"thread": threading.current_thread().name})

    return Metric("test.together", "", score)


def test_every_device_has_a_clip_at_once() -> None:
    found = list(score_on(CLIPS[:4], [_together(2)], [Models(), Models()]))
    threads = [one.scores["test.together"].details["thread"] for one in found]
    assert sorted(threads) == ["vgen-score-0", "vgen-score-0", "vgen-score-1", "vgen-score-1"]


def test_what_one_device_raises_ends_all(weights_folder: Path) -> None:
    devices = [Models(Weights(weights_folder)), Models(Weights(weights_folder), "cuda:99")]
    with pytest.raises(SettingsError, match="cuda:99"):
        list(score_on(CLIPS * 20, [METRICS["vbench.background_consistency"]], devices))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vgen-score")]


def test_who_takes_no_more_results_leaves_no_thread() -> None:
    results: Iterator[Any] = score_on(CLIPS * 20, [METRICS["checks.black"]], [Models(), Models()])
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vgen-score")]


def test_which_of_several_devices_scored_does_not_tell_scores_apart_but_precision_does(weights_folder: Path) -> None:
    metric, weights = METRICS["vbench.background_consistency"], Weights(weights_folder)
    one, other = (fingerprint(metric, Models(weights, name)) for name in ("cuda:0", "cuda:1"))
    assert one == other
    assert one["device"] == "cuda"
    half = fingerprint(metric, Models(weights, "cuda:0", "bfloat16"))
    assert {name for name in one if one[name] != half[name]} == {"dtype"}
    plain = METRICS["checks.black"]
    assert fingerprint(plain, Models(weights, "cuda", "float16")) == fingerprint(plain, Models(weights))


PROMPTED = {"vbench.human_action": "a person is riding a bike", "vbench.overall_consistency": "a bike"}
TOLERANCES = {"vbench.imaging_quality": 1.0, "vbench.dynamic_degree": 1.0}
"""Differences that half precision may make, in the units of the scores; 0.02 else."""


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_scores(
    weights_folder: Path, clip_of: Callable[[str], Clip], models: Models, precision: Any
) -> None:
    half = Models(Weights(weights_folder), precision=precision)
    for metric in registry.METRICS.values():
        if metric.family is None or metric.group != "vbench" or metric.name == "vbench.dynamic_degree":
            continue
        clip = ClipToScore(
            DATA / "clips/two_frames.mp4",
            PROMPTED.get(metric.name, "a bike"),
            auxiliary={"appearance_style": "Van Gogh style"},
        )
        (single,), (halved,) = (list(score_clips([clip], [metric], one)) for one in (models, half))
        wanted, found = single.scores[metric.name], halved.scores[metric.name]
        assert found.score == pytest.approx(wanted.score, abs=TOLERANCES.get(metric.name, 0.02)), found.reason
        if metric.name == "vbench.background_consistency":
            assert found.score != wanted.score


def test_a_flow_of_half_precision_is_a_flow(weights_folder: Path, models: Models) -> None:
    random = torch.Generator().manual_seed(7)
    frames = torch.randint(0, 256, (2, 128, 128, 3), generator=random, dtype=torch.uint8).numpy()
    half = Models(Weights(weights_folder), precision="bfloat16")
    with half.computing("raft"):
        (found,) = half.get("raft").flows(frames, [(0, 1)])
    (wanted,) = models.get("raft").flows(frames, [(0, 1)])
    assert found.dtype is torch.float32
    assert float((found - wanted).abs().mean()) < 0.2 * float(wanted.abs().mean())


def test_frames_together_have_the_scores_of_each_alone(models: Models, clip_of: Callable[[str], Clip]) -> None:
    network = models.get("musiq")._network
    images = pixels.tensor(clip_of("three_frames").frames) / 255
    with torch.inference_mode():
        alone = torch.cat([network(images[i : i + 1]) for i in range(len(images))])
        torch.testing.assert_close(network(images), alone, rtol=0, atol=1e-5)
