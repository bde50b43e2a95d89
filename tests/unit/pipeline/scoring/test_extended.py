"""Metrics beside VBench's sixteen, each against another way to its number, with small weights of the real shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.scoring import METRICS, Clip, Context, Models, Score
from pipeline.scoring.aggregates import after_static_filter, pool_dimension
from pipeline.scoring.extended.clip_score import PREFIX
from pipeline.scoring.extended.long_clips import part_seconds, parts
from pipeline.scoring.metric import Pooling
from pipeline.scoring.models.warping import pair_error
from pipeline.scoring.run import LONG, ClipToScore, score_clips
from tests.unit.pipeline.scoring.conftest import DATA
from tests.unit.pipeline.scoring.test_oracle import CLIPS

TOLERANCE = 1e-6
PROMPTS = ("a person is riding a bike", "in super slow motion", "the bike's rider, again & again, " * 20)
ClipOf = Callable[[str], Clip]


def test_clip_score_is_that_of_transformers_own_clip(models: Models, clip_of: ClipOf) -> None:
    """The oracle: CLIPModel's own forward of pictures that PIL shrank, one by one."""
    text = models.get("clip_b32_text")
    model, most = text._model, text._model.config.text_config.max_position_embeddings
    mean, deviation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    found = []
    for number, name in enumerate(CLIPS):
        prompt, clip = PROMPTS[number % 3], clip_of(name)
        ids = text._tokens.ids(PREFIX + prompt)
        cut = len(ids) > most
        ids = [*ids[: most - 1], ids[-1]] if cut else ids
        cosines = []
        for frame in clip.frames:
            picture = Image.fromarray(frame)
            scale = 224 / min(picture.size)
            sides = [224 if side == min(picture.size) else int(224 * side / min(picture.size)) for side in picture.size]
            picture = picture.resize(sides, Image.Resampling.BICUBIC) if scale != 1 else picture
            left, top = (round((side - 224) / 2) for side in picture.size)
            pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32) / 255
            pixels = ((pixels - np.float32(mean)) / np.float32(deviation)).transpose(2, 0, 1)
            with torch.no_grad():
                answer = model(input_ids=torch.tensor([ids]), pixel_values=torch.from_numpy(pixels)[None])
            cosines.append(float((answer.logits_per_image / model.logit_scale.exp()).detach()))
        wanted = sum(2.5 * max(cosine, 0.0) for cosine in cosines) / len(cosines)

        score = METRICS["text.clip_score"].score(clip, Context(models, prompt))

        assert score.score == pytest.approx(wanted, abs=TOLERANCE), name
        assert (score.weight, score.details.get("cut", False)) == (len(clip.frames), cut)
        # Many cosines of such weights are below 0, where every score is 0: they are compared too
        assert text.cosines(clip, PREFIX + prompt)[0] == pytest.approx(cosines, abs=TOLERANCE), name
        found.append(round(sum(cosines) / len(cosines), 4))
    assert len(set(found)) > len(found) / 2  # they tell clips apart
    assert METRICS["text.clip_score"].score(clip, Context(models)).reason == "needs the prompt, and none was given"


def _pair_error_by_hand(first: Any, second: Any, there: Any, back: Any) -> tuple[float, float]:
    """The definition, pixel by pixel."""
    _, height, width = first.shape

    def at(values: Any, x: float, y: float) -> Any:
        x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
        left, top = int(x), int(y)
        right, below = min(left + 1, width - 1), min(top + 1, height - 1)
        a, b = x - left, y - top
        upper = values[:, top, left] * (1 - a) + values[:, top, right] * a
        lower = values[:, below, left] * (1 - a) + values[:, below, right] * a
        return upper * (1 - b) + lower * b

    errors = []
    for y in range(height):
        for x in range(width):
            u, v = there[:, y, x]
            if not (0 <= x + u <= width - 1 and 0 <= y + v <= height - 1):
                continue
            returned = at(back, x + u, y + v)
            apart = float(((there[:, y, x] + returned) ** 2).sum())
            if apart > 0.01 * float((there[:, y, x] ** 2).sum() + (returned**2).sum()) + 0.5:
                continue
            errors.append(float(((first[:, y, x] - at(second, x + u, y + v)) ** 2).mean()))
    return (sum(errors) / len(errors) if errors else 0.0), len(errors) / (height * width)


@pytest.mark.parametrize("seed", range(15))
def test_the_error_of_a_pair_is_the_definitions(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(5, 14, 2)
    first, second = random.random((2, 3, height, width), np.float32)
    there = (random.standard_normal((2, height, width)) * random.choice([0.3, 1.5, 6])).astype(np.float32)
    back = (-there + random.standard_normal(there.shape) * random.choice([0.0, 0.3, 2])).astype(np.float32)

    found = pair_error(*(torch.from_numpy(values) for values in (first, second, there, back)))

    assert found == pytest.approx(_pair_error_by_hand(first, second, there, back), abs=1e-5)


def test_a_picture_that_only_moves_has_no_error_and_what_leaves_does_not_count() -> None:
    picture = torch.rand((3, 20, 30), generator=torch.Generator().manual_seed(1))
    there = torch.zeros((2, 20, 24))
    there[0] = -4.0  # the camera moves by four pixels to the right
    error, seen = pair_error(picture[..., :24], picture[..., 4:28], there, -there)
    assert error == pytest.approx(0.0, abs=1e-12)
    assert seen == pytest.approx(20 / 24)
    still, _ = pair_error(picture[..., :24], picture[..., 4:28], torch.zeros_like(there), torch.zeros_like(there))
    assert still > 0.1


def test_warp_errors_are_of_the_flows_of_a_clip(models: Models, clip_of: ClipOf) -> None:
    clip = clip_of("three_frames")
    raft = models.get("raft")
    flows = list(raft.flows(clip.frames, [(0, 1), (1, 0), (1, 2), (2, 1)]))
    top, left = ((flows[0].shape[-2 + axis] - side) // 2 for axis, side in enumerate((clip.height, clip.width)))
    flows = [flow[:, top : top + clip.height, left : left + clip.width].numpy() for flow in flows]
    frames = clip.frames.transpose(0, 3, 1, 2).astype(np.float32) / 255
    pairs = [
        _pair_error_by_hand(frames[t], frames[t + 1], flows[2 * t], flows[2 * t + 1]) for t in range(2)
    ]  # fmt: skip

    score = METRICS["motion.warp_error"].score(clip, Context(models))

    seen = [error for error, share in pairs if share > 0]
    assert score.score == pytest.approx(sum(seen) / len(seen), abs=1e-5)
    assert score.details["seen"] == pytest.approx(min(share for _, share in pairs), abs=1e-3)
    short = METRICS["motion.warp_error"].score(clip_of("one_frame"), Context(models))
    assert short.reason == "needs at least 2 frames; this clip has 1"
    small = METRICS["motion.warp_error"].score(clip_of("square"), Context(models))
    assert small.reason == "RAFT needs more than 120 pixels a side, and the clip is 96x96"


@pytest.mark.parametrize(
    ("frames", "fps", "seconds", "wanted"),
    [
        (16, 8, 2, [(0, 16)]),
        (15, 8, 2, [(0, 15)]),
        (32, 8, 2, [(0, 16), (16, 32)]),
        (41, 8, 2, [(0, 16), (16, 32), (25, 41)]),
        (17, 8, 2, [(0, 16), (1, 17)]),
        (121, 24, 2, [(0, 48), (48, 96), (73, 121)]),
        (121, 24, 10, [(0, 121)]),
    ],
)
def test_a_clip_is_cut_as_by_the_official_code(
    frames: int, fps: int, seconds: int, wanted: list[tuple[int, int]]
) -> None:
    assert [(part.start, part.stop) for part in parts(frames, fps, seconds)] == wanted


def test_parts_are_as_long_as_the_longest_dimension_of_the_clips_entry_wants() -> None:
    assert part_seconds(None) == part_seconds(("imaging_quality", "color")) == 2
    assert part_seconds(("imaging_quality", "overall_consistency")) == 10


LONG_DIMENSIONS = ("subject_consistency", "background_consistency", "aesthetic_quality", "temporal_flickering")


@pytest.mark.parametrize("name", [name for name in CLIPS if name != "one_frame"])
def test_a_long_clips_score_is_the_mean_of_its_parts(name: str, models: Models, clip_of: ClipOf) -> None:
    """Each part as a clip of its own, by the dimension that has its own oracle."""
    clip = clip_of(name)
    fps = max(1, len(clip.frames) // 5)  # so that there are several parts of two seconds, and a rest
    clip = replace(clip, fps=Fraction(fps) + Fraction(1, 2), _found={})  # the fraction is dropped
    for dimension in LONG_DIMENSIONS:
        short, long = METRICS[f"vbench.{dimension}"], METRICS[f"vbench_long.{dimension}"]
        single = [
            short.score(replace(clip, frames=clip.frames[part.start : part.stop], _found={}), Context(models))
            for part in parts(len(clip.frames), fps, 2)
        ]
        score = long.score(clip, Context(models))
        values = [one.score for one in single if one.score is not None]
        assert len(values) == len(single)
        assert score.score == pytest.approx(sum(values) / len(values), abs=1e-12)
        assert score.details["parts"] == values
        pairs = sum(one.weight for one in single)
        assert score.weight == (pairs if dimension == "subject_consistency" else len(single))


def test_what_one_part_lacks_the_clip_lacks(models: Models, clip_of: ClipOf) -> None:
    clip = replace(clip_of("cut"), fps=None)
    flickering = METRICS["vbench_long.temporal_flickering"]
    assert "does not say a frame rate of at least 1" in (flickering.score(clip, Context(models)).reason or "")
    found = flickering.score(clip_of("one_frame"), Context(models))
    assert found.reason == "part 1 is not scored: needs at least 2 frames; this clip has 1"


def test_a_long_clip_that_is_scored_whole_is_marked(clip_of: ClipOf) -> None:
    clip = DATA / "clips/cut.mp4"
    seconds = len(clip_of("cut").frames) / float(clip_of("cut").fps or 1)
    metrics = [METRICS["vbench.temporal_flickering"], METRICS["vbench_long.temporal_flickering"]]
    for limit, marked in ((seconds, True), (seconds + 0.1, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.scoring.extended.long_clips.LONG_FROM_S", limit)
            (found,) = score_clips([ClipToScore(clip)], metrics, Models())
        assert [LONG in score.details for score in found.scores.values()] == [marked, False]


def test_a_picture_that_is_none_is_said(tmp_path: Path, models: Models) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    clip = DATA / "clips/two_frames.mp4"
    metrics = [METRICS["vbench_i2v.i2v_subject"], METRICS["checks.black"]]
    for image, reason in (
        (tmp_path / "x.png", "the picture that the clip was made from: 'x.png' is not a PNG, JPEG or WebP image"),
        (tmp_path / "none.png", "the picture that the clip was made from: [Errno 2]"),
        (None, "needs the picture that the clip was made from, and none was given"),
    ):
        (found,) = score_clips([ClipToScore(clip, image=image)], metrics, models)
        assert (found.scores["vbench_i2v.i2v_subject"].reason or "").startswith(reason)
        assert found.scores["checks.black"].score is not None


FLICKERING, STATIC = "vbench.temporal_flickering", "vbench_tools.static_filter"


def _record(entry: int | None, seed: int, flickering: float | None, static: float | None) -> dict[str, Any]:
    scores = {FLICKERING: flickering, STATIC: static}
    return {
        "video": f"{entry}-{seed}.mp4",
        **({"entry": entry, "seed": seed} if entry is not None else {}),
        "scores": {name: {"score": score, "details": {}} for name, score in scores.items()},
    }


def test_the_static_filter_keeps_five_static_clips_a_prompt() -> None:
    records = [_record(4, seed, 0.9 + seed / 1000, float(seed != 2)) for seed in (9, 3, 2, 7, 1, 8, 4)]
    records += [_record(5, 1, 0.5, 0.0), _record(None, 1, 0.7, 1.0)]
    found = after_static_filter(records, FLICKERING)
    assert found is not None
    assert sorted(score.score or 0 for score in found.kept) == [0.7, 0.901, 0.903, 0.904, 0.907, 0.908]
    assert found.dropped == 3


@pytest.mark.parametrize("static", [None, "missing"])
def test_without_the_filters_verdict_on_every_clip_nothing_is_dropped(static: str | None) -> None:
    records = [_record(4, 1, 0.9, 1.0), _record(4, 2, 0.8, None)]
    if static == "missing":
        del records[1]["scores"][STATIC]
    assert after_static_filter(records, FLICKERING) is None
    records[1]["scores"][FLICKERING]["score"] = None  # it has no score anyway
    found = after_static_filter(records, FLICKERING)
    assert found is not None
    assert [score.score for score in found.kept] == [0.9]


def test_long_scores_are_pooled_by_their_parts() -> None:
    scores = [Score(60.0, weight=3), Score(40.0, weight=1)]
    assert pool_dimension("imaging_quality", scores, Pooling.WEIGHTED).value == pytest.approx(0.55)
    assert math.isclose(pool_dimension("dynamic_degree", scores).value or 0, 50.0)


def test_a_suites_clip_is_asked_for_the_static_filter_and_parts_by_its_dimensions() -> None:
    metrics = [METRICS[name] for name in (STATIC, "vbench_long.temporal_flickering", "text.clip_score", "checks.black")]
    wanted = {("temporal_flickering",): [True] * 4, ("color",): [False, False, True, True], None: [True] * 4}
    for dimensions, asked in wanted.items():
        assert [metric.scores_clip_of(dimensions) for metric in metrics] == asked
