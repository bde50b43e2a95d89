"""Segments in prompt files: counts, lists of prompts, lengths beyond the model's, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.prompts import parse_bytes
from pipeline.settings import Settings
from pipeline.spec import JobSpec

SETTINGS = Settings()
TINY = {"preset": "tiny-wan", "num_frames": 17}


def specs(name: str, text: str, **overrides: object) -> list[JobSpec]:
    submission = parse_bytes(text.encode(), name, overrides=overrides, settings=SETTINGS)
    found = [job.spec for job in submission.jobs]
    assert [JobSpec.model_validate(spec.model_dump()) for spec in found] == found
    return found


def line(**fields: Any) -> str:
    return json.dumps({"preset": "tiny-wan", **fields})


def mistakes(text: str, name: str = "p.jsonl", **overrides: object) -> str:
    with pytest.raises(InputError) as caught:
        specs(name, text, **overrides)
    return "\n".join(str(problem) for problem in caught.value.problems)


def test_a_count_and_a_list_of_prompts_say_how_many_segments_a_clip_has() -> None:
    counted, listed, plain = specs(
        "p.jsonl",
        "\n".join(
            [line(prompt="a", segments=3, num_frames=17), line(segments=["b", "c"]), line(prompt="d", segments=1)]
        ),
    )

    assert (counted.segments, counted.segment_prompts, counted.prompt_of(2)) == (3, (), "a")
    assert (counted.seam_frames, counted.total_frames) == (1, 17 + 16 + 16)
    assert (listed.prompt, listed.segments, listed.segment_prompts) == ("b", 2, ("b", "c"))
    assert (plain.segments, plain.seam_frames) == (1, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", '#: preset = tiny-wan\na --segments ["a", "b"]'),
        ("p.csv", 'preset,segments\ntiny-wan,"[""a"", ""b""]"\n'),
        ("p.yaml", "defaults: {preset: tiny-wan}\nprompts:\n  - segments: [a, b]\n"),
    ],
)
def test_a_list_can_stand_in_every_format(name: str, text: str) -> None:
    (spec,) = specs(name, text)
    assert spec.segment_prompts == ("a", "b")


def test_a_length_beyond_the_models_is_made_of_equal_segments() -> None:
    seconds, frames = specs("p.jsonl", "\n".join([line(prompt="a", seconds=60), line(prompt="a", num_frames=161)]))

    # 60 s at 8 fps are 480 frames and the first: 6 segments of 81 frames, 80 of them new
    assert (seconds.segments, seconds.num_frames, seconds.total_frames) == (6, 81, 481)
    assert (frames.segments, frames.num_frames, frames.total_frames) == (2, 81, 161)


def test_files_without_segments_keep_their_fingerprint_and_files_with_them_have_their_own() -> None:
    texts = [line(prompt="a"), line(prompt="a", segments=1), line(prompt="a", segments=2), line(segments=["a", "b"])]
    prints = [parse_bytes(text.encode(), "p.jsonl", overrides={}, settings=SETTINGS).fingerprint for text in texts]

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line(prompt="a", segments=0), "p.jsonl:1: segments: 0 is not a whole number from 1 to 256, or a list of"),
        (line(prompt="a", segments=[]), "segments: lists 0 prompts; 1 to 256 are allowed"),
        (line(segments=["a", " "]), "segments: prompt 2: is empty"),
        (line(segments=["a", 3]), "segments: prompt 2: 3 is not text"),
        (line(prompt="x", segments=["a", "b"]), "segments: a list begins with the clip's prompt"),
        (line(segments=["a", "b"], auto_extend=True), "auto_extend: cannot be given with a list of prompts"),
        (line(prompt="a", auto_extend=True), "auto_extend: is given, but the clip has one segment; give 'segments'"),
        (
            line(prompt="a", segments=2, preset="mochi-1"),
            "segments: 2 is given, but preset 'mochi-1' cannot continue from a segment",
        ),
        (
            line(prompt="a", segments=2, preset="ltx-video", num_frames=17),
            "num_frames: 17 is too short: a segment of preset 'ltx-video' starts from 9 frames",
        ),
        (line(prompt="a", num_frames=82), "num_frames: 82 cannot be made by preset 'tiny-wan'"),
        (
            '{"defaults": {"segments": ["a", "b"]}}\n{"prompt": "x"}',
            "segments: a list of prompts is allowed on a single line only",
        ),
    ],
)
def test_wrong_segments_are_told_with_line_and_field(text: str, expected: str) -> None:
    assert expected in mistakes(text)


def test_text_that_is_no_list_is_told() -> None:
    assert "segments: '[a, b]' is not a JSON list of prompts" in mistakes("a --segments [a, b]", "p.txt")


def test_a_sweep_of_lists_and_a_lines_own_prompt_contradict_each_other() -> None:
    swept = json.dumps({"defaults": {"preset": "tiny-wan", "sweep": {"segments": [["a", "b"], ["c", "d"]]}}})

    assert "p.jsonl:2: prompt: 'x' differs from the first prompt in the list of segments, 'a'" in mistakes(
        f"{swept}\n{line(prompt='x')}"
    )
    listed, _, again = specs("p.jsonl", f"{swept}\n{line()}\n{line(segments=['e', 'f', 'g'])}")
    assert listed.segment_prompts == ("a", "b")
    assert again.segment_prompts == ("e", "f", "g"), "a line's list settles the sweep"
    (counted,) = specs("p.jsonl", f"{swept}\n{line(prompt='x', segments=3)}")
    assert (counted.prompt, counted.segments, counted.segment_prompts) == ("x", 3, ()), "and so does its count"


def test_a_lines_list_ends_the_files_wish_that_the_enhancer_writes_them() -> None:
    wished = json.dumps({"defaults": {"preset": "tiny-wan", "auto_extend": True}})

    listed, counted = specs("p.jsonl", f"{wished}\n{line(segments=['a', 'b'])}\n{line(prompt='a', segments=2)}")

    assert (listed.segment_prompts, listed.auto_extend) == (("a", "b"), False)
    assert (counted.segment_prompts, counted.auto_extend) == ((), True)


_PROMPTS = st.sampled_from(["a", "b"])
_LISTS = st.lists(_PROMPTS, min_size=1, max_size=3)
_COUNTS = st.integers(1, 3)
_LAYER = st.fixed_dictionaries({}, optional={"auto_extend": st.booleans(), "segments": _COUNTS})
_SWEEPS = st.none() | st.lists(_LISTS | _COUNTS, min_size=1, max_size=2).map(lambda values: {"segments": values})


@settings(max_examples=150, deadline=None)
@given(
    defaults=_LAYER,
    sweep=_SWEEPS,
    override=_LAYER,
    own=st.fixed_dictionaries(
        {}, optional={"prompt": _PROMPTS, "segments": _COUNTS | _LISTS, "auto_extend": st.booleans(), "sweep": _SWEEPS}
    ),
)
def test_no_layers_make_a_job_that_contradicts_itself(
    defaults: dict[str, Any], sweep: object, override: dict[str, Any], own: dict[str, Any]
) -> None:
    head = json.dumps({"defaults": {"preset": "tiny-wan", **defaults, **({"sweep": sweep} if sweep else {})}})
    try:
        made = parse_bytes(f"{head}\n{line(**own)}".encode(), "p.jsonl", overrides=override, settings=SETTINGS)
    except InputError:
        return
    for job in made.jobs:
        spec = JobSpec.model_validate(job.spec.model_dump())
        assert not spec.segment_prompts or spec.segment_prompts[0] == spec.prompt
        assert not (spec.segment_prompts and spec.auto_extend)
        assert "segments" not in own or not isinstance(own["segments"], list) or spec.segments == len(own["segments"])
