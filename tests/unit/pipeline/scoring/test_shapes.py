"""The shapes world: its words, its pictures, and the detector that reads one back from the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.shapes.captions import TRAINED_ORDERS, UNSEEN_ORDERS, caption
from examples.shapes.evaluate import held_out_prompts
from examples.shapes.render import render
from examples.shapes.scene import HEIGHT, WIDTH, combinations, draw_scene
from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context
from pipeline.scoring.registry import METRICS
from pipeline.scoring.residency import Models
from pipeline.scoring.shapes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Asked, asked_for
from pipeline.scoring.shapes.detector import see
from pipeline.scoring.shapes.metric import PARTS
from pipeline.scoring.shapes.words import VOCABULARY
from pipeline.scoring.suite import read_suite

METRIC = METRICS["shapes.follows_prompt"]


def test_the_world_is_as_large_as_promised() -> None:
    assert (len(COLOURS), len(BACKGROUNDS), len(SHAPES), len(MOTIONS)) == (6, 6, 4, 6)
    seen, kept = combinations(held_out=False), combinations(held_out=True)
    assert len({*seen, *kept}) == len(seen) + len(kept) == 864
    assert len(kept) > 100
    for part in PARTS:  # training meets every word
        assert {getattr(one, part) for one in seen} == {getattr(one, part) for one in kept}


def test_every_word_has_one_meaning() -> None:
    tables = [word for table in (COLOURS, BACKGROUNDS, SHAPES, MOTIONS) for words in table.values() for word in words]
    assert len(tables) == len(set(tables))
    assert len(VOCABULARY) == len(set(VOCABULARY))


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("A RED circle moves from left to right, at night.", Asked("red", "circle", "night", "right")),
        ("in the desert a tiny violet star rises", Asked("purple", "star", "sand", "up", "small")),
        ("an elephant reads a newspaper", Asked()),
        ("a bluebird", Asked()),
        ("", Asked()),
    ],
)
def test_a_prompt_asks_for_what_its_words_say(prompt: str, asked: Asked) -> None:
    assert asked_for(prompt) == asked


def test_captions_say_what_the_scene_shows_and_leave_something_out_at_times() -> None:
    rng = np.random.default_rng(0)
    unsaid = 0
    for what in combinations(held_out=False):
        asked, tested = asked_for(caption(what, "large", rng)), asked_for(caption(what, "small", rng, evaluation=True))
        assert all(getattr(asked, part) in {getattr(what, part), None} for part in PARTS)
        assert all(getattr(tested, part) == getattr(what, part) for part in PARTS)
        unsaid += any(getattr(asked, part) is None for part in PARTS)
    assert 0.05 < unsaid / len(combinations(held_out=False)) < 0.3
    assert not set(TRAINED_ORDERS) & set(UNSEEN_ORDERS)
    assert held_out_prompts(20, 0) == held_out_prompts(20, 0) != held_out_prompts(20, 1)


def test_a_scene_is_drawn_from_its_seed_and_stays_in_the_picture() -> None:
    rng = np.random.default_rng(2)
    for what in combinations(held_out=True):
        scene = draw_scene(what, rng)
        for x, y in (scene.start, scene.end):
            reach = max(scene.radii)
            assert reach <= x <= WIDTH - reach
            assert reach <= y <= HEIGHT - reach
    again = [render(draw_scene(what, np.random.default_rng(4))) for _ in range(2)]
    assert np.array_equal(*again)


def test_the_detector_reads_clean_clips() -> None:
    rng = np.random.default_rng(3)
    those = combinations(held_out=True)[::2]
    right = dict.fromkeys(PARTS, 0)
    for what in those:
        seen = see(render(draw_scene(what, rng)))
        for part in PARTS:
            right[part] += getattr(seen, part) == getattr(what, part)
    assert min(right.values()) >= 0.97 * len(those), right


def test_the_detector_reads_a_larger_copy_alike() -> None:
    clip = render(draw_scene(combinations(held_out=True)[5], np.random.default_rng(6)))
    large = clip.repeat(5, axis=1).repeat(5, axis=2)
    for part in (*PARTS, "size"):
        assert getattr(see(large), part) == getattr(see(clip), part)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_a_clip_without_a_shape_shows_none(frames: int) -> None:
    rng = np.random.default_rng(1)
    flat = np.full((frames, 64, 128, 3), 120, np.uint8)
    grain = (flat + rng.integers(-8, 8, flat.shape)).astype(np.uint8)
    for clip in (flat, grain, np.zeros_like(flat)):
        seen = see(clip)
        assert (seen.colour, seen.shape, seen.motion) == (None, None, None)


def test_the_metric_counts_what_was_asked_for() -> None:
    what = combinations(held_out=True)[7]
    frames = render(draw_scene(what, np.random.default_rng(8)))
    clip = Clip(Path("clip.mp4"), frames, None, has_audio=False)

    def score(prompt: str) -> float | None:
        return METRIC.score(clip, Context(Models.__new__(Models), prompt=prompt)).score

    right = caption(what, "medium", np.random.default_rng(1), evaluation=True)
    other = next(colour for colour in COLOURS if colour != what.colour)
    assert score(right) == 1.0
    assert score(f"a {what.colour} {what.shape}") == 1.0
    assert score(f"a {other} {what.shape}") == 0.5
    assert score(f"a {other} thing") == 0.0
    assert score("an elephant") is None
    assert score("") is None


def test_the_suite_asks_for_all_of_the_world_in_combinations_that_training_never_saw() -> None:
    prompts = [entry.prompt for entry in read_suite(Path("shapes")).entries]

    asked = [asked_for(prompt) for prompt in prompts]
    kept = {(one.colour, one.shape, one.background, one.motion) for one in combinations(held_out=True)}
    assert len(set(prompts)) == 36
    assert {(one.colour, one.shape, one.background, one.motion) for one in asked} <= kept
    for part, names in zip(PARTS, (COLOURS, SHAPES, BACKGROUNDS, MOTIONS), strict=True):
        times = [[getattr(one, part) for one in asked].count(name) for name in names]
        assert min(times) >= 36 / len(names) / 2, part


def test_a_file_of_a_suite_s_name_is_read_before_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").write_text('[{"prompt_en": "a fox", "dimension": ["scene"]}]', "utf-8")

    assert [entry.prompt for entry in read_suite(Path("shapes")).entries] == ["a fox"]
