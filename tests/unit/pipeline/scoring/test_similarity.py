"""Likeness to a reference clip: against pytorch-msssim's numbers, and against oracles that are written out here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import RefusedError
from pipeline.scoring import METRICS, Clip, Context, Models, Weights
from pipeline.scoring.models import openai_clip
from pipeline.scoring.weight_files import CLIP_B32
from pipeline.scoring.weights import FoundWeights
from tests.data.vbench_oracle import tiny_weights

CONTEXT = Context(Models())
TOLERANCE = 5e-6
"""Theirs has its window in single precision."""


@pytest.mark.parametrize("name", ["large", "cut", "odd_sizes", "static", "one_frame"])
def test_similarity_is_that_of_the_published_implementation(
    name: str, oracle: dict[str, Any], clip_of: Callable[[str], Clip]
) -> None:
    clip = clip_of(name)
    context = replace(CONTEXT, reference=replace(clip, frames=clip.frames[::-1]))
    wanted = oracle["dimensions"]["reversed"][name]
    assert METRICS["common.ssim"].score(clip, context).score == pytest.approx(wanted["ssim"], abs=TOLERANCE)
    found = METRICS["common.ms_ssim"].score(clip, context)
    if wanted["ms_ssim"] is None:
        assert "needs at least 161 pixels a side" in (found.reason or "")
    else:
        assert found.score == pytest.approx(wanted["ms_ssim"], abs=TOLERANCE)


def test_psnr_by_definition() -> None:
    frames = np.full((3, 20, 20, 3), 100, np.uint8)
    clip = Clip(Path("a"), frames, None, has_audio=False)
    other = replace(clip, frames=frames + np.uint8(5))
    assert METRICS["common.psnr"].score(clip, replace(CONTEXT, reference=other)).score == pytest.approx(
        10 * np.log10(255**2 / 25)
    )
    assert METRICS["common.psnr"].score(clip, replace(CONTEXT, reference=clip)).score == 100.0


@pytest.mark.parametrize("metric", ["common.psnr", "common.ssim", "common.ms_ssim"])
def test_a_reference_of_another_size_or_length_is_refused(metric: str) -> None:
    clip = Clip(Path("a"), np.zeros((3, 180, 200, 3), np.uint8), None, has_audio=False)
    for other in (clip.frames[:2], clip.frames[:, :170]):
        found = METRICS[metric].score(clip, replace(CONTEXT, reference=replace(clip, frames=other)))
        assert found.score is None
        assert "the clip has 3 frames of 200x180, its reference" in (found.reason or "")


PERCEPTUAL_CLIPS = (
    "black", "cut", "fast", "large", "noise", "ntsc", "odd_sizes", "odd_tall", "one_frame", "seven_frames", "square",
    "static", "tall", "three_frames", "two_frames", "wide",
)  # fmt: skip
MOST_FRAMES = 4
"""Of a clip that are compared: the oracle is slow."""


class LpipsOracle:
    """LPIPS by its paper, in numpy and double precision, from the same files."""

    def __init__(self, folder: Path) -> None:
        self.backbone = {key: value.double().numpy() for key, value in _read(folder / "alexnet-owt-7be5be79.pth")}
        self.heads = [value.double().numpy().ravel() for _, value in sorted(_read(folder / "alex.pth"))]

    def distance(self, first: np.ndarray, second: np.ndarray) -> float:
        total = 0.0
        for a, b, head in zip(self._maps(first), self._maps(second), self.heads, strict=True):
            total += float((head[:, None, None] * (a - b) ** 2).sum(axis=0).mean())
        return total

    def _maps(self, frame: np.ndarray) -> list[np.ndarray]:
        image = frame.astype(np.float64).transpose(2, 0, 1) / 255 * 2 - 1
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        hidden = (image - shift[:, None, None]) / scale[:, None, None]
        maps = []
        for layer, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if layer in (3, 6):
                windows = np.lib.stride_tricks.sliding_window_view(hidden, (3, 3), axis=(1, 2))
                hidden = windows[:, ::2, ::2].max(axis=(3, 4))
            weight, bias = self.backbone[f"features.{layer}.weight"], self.backbone[f"features.{layer}.bias"]
            padded = np.pad(hidden, ((0, 0), (padding, padding), (padding, padding)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))
            windows = windows[:, ::stride, ::stride]
            hidden = np.maximum(np.tensordot(weight, windows, axes=([1, 2, 3], [0, 3, 4])) + bias[:, None, None], 0)
            maps.append(hidden / (np.sqrt((hidden**2).sum(axis=0, keepdims=True)) + 1e-10))
        return maps


def _read(path: Path) -> list[tuple[str, torch.Tensor]]:
    return list(torch.load(path, weights_only=True).items())


def _pair(clip: Clip) -> tuple[Clip, Clip]:
    """The clip's first frames, and others of the same size: the next ones, moved aside and darker."""
    frames = clip.frames[:MOST_FRAMES]
    other = np.roll(clip.frames[-len(frames) :], 5, axis=2) // 2 + np.uint8(20)
    return replace(clip, frames=frames, _found={}), replace(clip, frames=other, _found={})


def test_lpips_and_its_steps_in_time_are_the_paper_s(
    clip_of: Callable[[str], Clip], models: Models, weights_folder: Path
) -> None:
    oracle, found = LpipsOracle(weights_folder), {}
    for name in PERCEPTUAL_CLIPS:
        clip, other = _pair(clip_of(name))
        context = Context(models, reference=other)
        apart = [oracle.distance(a, b) for a, b in zip(clip.frames, other.frames, strict=True)]
        scored = METRICS["common.lpips"].score(clip, context)
        assert scored.score == pytest.approx(np.mean(apart), abs=TOLERANCE), name
        assert scored.details["worst_frame"] == int(np.argmax(apart))
        assert METRICS["common.lpips"].score(clip, replace(context, reference=clip)).score == 0.0
        found[name] = scored.score

        steps = [[oracle.distance(a, b) for a, b in itertools.pairwise(one.frames)] for one in (clip, other)]
        scored = METRICS["common.temporal_lpips"].score(clip, context)
        if len(clip.frames) == 1:
            assert scored.reason == "needs at least 2 frames; this clip has 1"
        else:
            wanted = np.mean([abs(a - b) for a, b in zip(*steps, strict=True)])
            assert scored.score == pytest.approx(wanted, abs=TOLERANCE), name
    # Weights that answer the same to everything would prove nothing.
    assert max(found.values()) > 10 * min(found.values()) > 0


def test_clip_s_likeness_is_the_cosine_of_both_frames_features(
    clip_of: Callable[[str], Clip], models: Models, weights_folder: Path
) -> None:
    """The oracle takes the features from transformers' own processor and model, frame by frame."""
    model = openai_clip.load_model(FoundWeights(CLIP_B32, weights_folder / CLIP_B32.name), "cpu").double()
    found = []
    for name in PERCEPTUAL_CLIPS:
        clip, other = _pair(clip_of(name))
        cosines = []
        for pair in zip(clip.frames, other.frames, strict=True):
            a, b = (_features(model, frame) for frame in pair)
            cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
        scored = METRICS["common.clip"].score(clip, Context(models, reference=other))
        assert scored.score == pytest.approx(np.mean(cosines), abs=TOLERANCE), name
        assert METRICS["common.clip"].score(clip, Context(models, reference=clip)).score == pytest.approx(1.0)
        found.append(scored.score)
    assert max(found) - min(found) > 0.1


def _features(model: Any, frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = 224 / min(height, width)
    image = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].double()
    size = (224, int(width * scale)) if height <= width else (int(height * scale), 224)
    image = torch.nn.functional.interpolate(image, size=size, mode="bicubic", align_corners=False)
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    image = image[..., top : top + 224, left : left + 224] / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    image = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    with torch.no_grad():
        features: np.ndarray = model.get_image_features(pixel_values=image).pooler_output[0].numpy()
    return features


@pytest.mark.parametrize(
    ("metric", "side", "least"),
    [
        ("common.ssim", 10, 11),
        ("common.ms_ssim", 160, 161),
        ("common.lpips", 30, 31),
        ("common.temporal_lpips", 30, 31),
    ],
)
def test_a_clip_that_is_too_small_is_not_scored(metric: str, side: int, least: int, models: Models) -> None:
    small = Clip(Path("a"), np.zeros((2, side, 200, 3), np.uint8), None, has_audio=False)
    found = METRICS[metric].score(small, Context(models, reference=small))
    assert (found.score, found.reason) == (None, f"needs at least {least} pixels a side; the clip is 200x{side}")
    enough = replace(small, frames=np.zeros((2, least, 200, 3), np.uint8))
    assert METRICS[metric].score(enough, Context(models, reference=enough)).score == METRICS[metric].perfect


def test_a_wrong_file_of_lpips_is_said(tmp_path: Path) -> None:
    tiny_weights.write_all(tmp_path)
    heads = torch.load(tmp_path / "alex.pth", weights_only=True)
    del heads["lin3.model.1.weight"]
    torch.save(heads, tmp_path / "alex.pth")
    clip = Clip(Path("a"), np.zeros((1, 64, 64, 3), np.uint8), None, has_audio=False)
    with pytest.raises(RefusedError, match=r"alex\.pth: lacks weights\.lin3"):
        METRICS["common.lpips"].score(clip, Context(Models(Weights(tmp_path)), reference=clip))
