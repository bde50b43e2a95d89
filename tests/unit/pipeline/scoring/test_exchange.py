"""Clips out under official names, official results back in, keyed by entry and seed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, NotFoundError
from pipeline.scoring import exchange
from pipeline.scoring.suite import Suite, find_suite, read_suite
from pipeline.scoring.suite_jobs import entry_of
from pipeline.spec import SUITE_ENTRY_LABEL
from tests.unit.pipeline.scoring.conftest import DATA

ENTRIES: list[dict[str, Any]] = [
    {"prompt_en": "a red bird", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {"prompt_en": "alley", "dimension": ["scene"], "auxiliary_info": {"scene": {"scene": {"scene": "alley"}}}},
    {"prompt_en": "A fantasy landscape", "dimension": ["subject_consistency"]},
    {"prompt_en": "a red bird", "dimension": ["object_class"], "auxiliary_info": {"object_class": {"object": "bird"}}},
]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(ENTRIES), "utf-8")
    return read_suite(path)


def manifest(tmp_path: Path, *keys: tuple[int, int]) -> Path:
    records = []
    for entry, seed in keys:
        name = f"clip-{entry}-{seed}.mp4"
        shutil.copyfile(DATA / "clips/three_frames.mp4", tmp_path / name)
        records.append({"video": name, "entry": entry, "seed": seed})
    path = tmp_path / "clips.json"
    path.write_text(json.dumps(records), "utf-8")
    return path


def test_the_suites_wrapping_is_undone(suite: Suite) -> None:
    assert suite.entries[1].auxiliary == {"scene": "alley"}
    assert suite.entries[0].auxiliary == {"color": "red"}
    assert not suite.standard


def test_a_wrong_suite_is_refused_with_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps([{"prompt_en": " "}, {"prompt_en": "a", "dimension": ["speed"]}, ENTRIES[0]]), "utf-8")
    with pytest.raises(InputError) as caught:
        read_suite(path)
    assert [problem.field for problem in caught.value.problems] == ["entry 0", "entry 1"]
    assert "'speed' is not a VBench dimension" in str(caught.value)
    with pytest.raises(NotFoundError, match="no suite: give VBench's"):
        find_suite(None)


def test_files_get_official_names_by_rank_of_seed(tmp_path: Path, suite: Suite) -> None:
    keys = [(0, seed) for seed in (90, 7, 8, 50, 60, 70)] + [(3, 7)]
    clips = exchange.read_manifest(manifest(tmp_path, *keys), suite)

    done = exchange.export(clips, suite, ["color", "object_class", "scene"], tmp_path / "out")

    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.mp4")) == [
        *(f"color/a red bird-{i}.mp4" for i in range(5)),
        "object_class/a red bird-0.mp4",
    ]
    assert [item.seed for item in done if item.dimension == "color"] == [7, 8, 50, 60, 70]
    assert {item.frames for item in done} == {3}
    with pytest.raises(InputError, match="export into an empty folder"):
        exchange.export(clips, suite, ["color"], tmp_path / "out")


def test_results_come_back_to_their_clips(tmp_path: Path, suite: Suite) -> None:
    keys = [(0, 7), (0, 8), (0, 9), (1, 7), (2, 7), (3, 7)]
    clips = exchange.read_manifest(manifest(tmp_path, *keys), suite)
    exchange.export(clips, suite, ["color", "scene", "subject_consistency", "object_class"], tmp_path / "out")
    results = tmp_path / "x_eval_results.json"
    official = {
        # the official code drops videos without the object, and JSON has its nan bare
        "color": [
            0.5,
            [
                {"video_path": "/videos/color/a red bird-1.mp4", "video_results": 0.5},
                {"video_path": "/videos/color/a red bird-0.mp4", "video_results": float("nan")},
            ],
        ],
        "scene": [1.0, [{"video_path": "/videos/alley-0.mp4", "video_results": True}]],
        "subject_consistency": [0.9, [{"video_path": "A fantasy landscape-0.mp4", "video_results": 0.9}]],
    }
    results.write_text(json.dumps(official), "utf-8")

    found = exchange.read_results(results, exchange.read_export(tmp_path / "out"))

    by_key = {(item.dimension, item.entry, item.seed): score for item, score in found.scores}
    assert by_key["color", 0, 8].score == 0.5
    assert "the official result is nan" in (by_key["color", 0, 7].reason or "")
    assert "do not contain this clip" in (by_key["color", 0, 9].reason or "")
    assert (by_key["scene", 1, 7].score, by_key["scene", 1, 7].weight) == (1.0, 16.0)
    assert by_key["subject_consistency", 2, 7].weight == 2.0
    assert len(by_key) == 5
    # The official value of color is that of the one clip it scored; the others' are their clips' too
    assert found.notices == []


def test_an_official_value_that_is_not_its_clips_is_pointed_out(tmp_path: Path, suite: Suite) -> None:
    clips = exchange.read_manifest(manifest(tmp_path, (0, 7), (0, 8)), suite)
    exchange.export(clips, suite, ["color"], tmp_path / "out")
    exported = exchange.read_export(tmp_path / "out")
    rows = [{"video_path": f"a red bird-{i}.mp4", "video_results": value} for i, value in enumerate((0.25, 0.75))]
    for value, notice in (
        (0.5, None),
        (0.50004, None),
        (
            0.75,
            "color: the official value is 0.75, but its clips give 0.5; the official code pools differently on several "
            "GPUs",
        ),
        (float("nan"), "color: the official value is nan, which is not a number"),
        ("0.5", "color: the official value is '0.5', which is not a number"),
    ):
        results = tmp_path / "x_eval_results.json"
        results.write_text(json.dumps({"color": [value, rows]}), "utf-8")
        found = exchange.merged_results([results], exported)
        assert found.notices == ([] if notice is None else [f"x_eval_results.json: {notice}"])
        assert [score.score for _, score in found.scores] == [0.25, 0.75]


def test_results_that_are_there_twice_are_refused(tmp_path: Path, suite: Suite) -> None:
    clips = exchange.read_manifest(manifest(tmp_path, (0, 7)), suite)
    exchange.export(clips, suite, ["color"], tmp_path / "out")
    exported = exchange.read_export(tmp_path / "out")
    row = {"video_path": "a red bird-0.mp4", "video_results": 0.5}
    for name, rows in (("one.json", [row]), ("two.json", [row]), ("double.json", [row, row])):
        (tmp_path / name).write_text(json.dumps({"color": [0.5, rows]}), "utf-8")
    with pytest.raises(InputError, match=r"color: a red bird-0\.mp4 is listed twice"):
        exchange.read_results(tmp_path / "double.json", exported)
    for second in ("two.json", "one.json"):
        with pytest.raises(
            InputError, match=r"color: .*one\.json has results of this dimension too: give each dimension once"
        ):
            exchange.merged_results([tmp_path / "one.json", tmp_path / second], exported)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"dimension": "speed"}, "'speed' is not a VBench dimension"),
        ({"name": "../a-0.mp4"}, "'../a-0.mp4' is not the name of an exported file"),
        ({"name": "a red bird-7.mp4"}, "is not the name of an exported file: PROMPT-INDEX.mp4, INDEX from 0 to 4"),
        ({"frames": 0}, "frames 0 is below what there can be"),
        ({}, "color/a red bird-0.mp4 is listed twice"),
        ({"name": "a red bird-1.mp4"}, "entry 0 with seed 7 is listed twice in color"),
    ],
)
def test_the_list_of_an_export_is_checked(tmp_path: Path, suite: Suite, change: dict[str, object], rule: str) -> None:
    clips = exchange.read_manifest(manifest(tmp_path, (0, 7)), suite)
    exchange.export(clips, suite, ["color"], tmp_path / "out")
    path = tmp_path / "out" / exchange.INDEX
    content = json.loads(path.read_text("utf-8"))
    content["files"].append({**content["files"][0], **change})
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=re.escape(rule)):
        exchange.read_export(tmp_path / "out")


def test_foreign_results_are_refused(tmp_path: Path, suite: Suite) -> None:
    clips = exchange.read_manifest(manifest(tmp_path, (0, 7)), suite)
    exchange.export(clips, suite, ["color"], tmp_path / "out")
    exported = exchange.read_export(tmp_path / "out")
    results = tmp_path / "results.json"
    for content, message in (
        ({"speed": [1, []]}, "'speed' is not a VBench dimension"),
        ({"color": 0.5}, r"color: the result is not \[value, \[per clip"),
        ({"color": [1, [{"video_path": "b/other-0.mp4", "video_results": 1}]]}, r"'other-0\.mp4' was not exported"),
        ([], "the file of results is not an object with a dimension"),
    ):
        results.write_text(json.dumps(content), "utf-8")
        with pytest.raises(InputError, match=message):
            exchange.read_results(results, exported)
    with pytest.raises(InputError, match="is not an export"):
        exchange.read_export(tmp_path)


def test_a_wrong_manifest_is_refused_with_every_mistake(tmp_path: Path, suite: Suite) -> None:
    path = tmp_path / "clips.json"
    good = {"video": "a.mp4", "entry": 0, "seed": 1}
    path.write_text(
        json.dumps([good, good, {**good, "entry": 4}, {**good, "seed": True}, {"entry": 1, "seed": 1}]), "utf-8"
    )
    with pytest.raises(InputError) as caught:
        exchange.read_manifest(path, suite)
    assert [str(problem).removeprefix(f"{path}: ") for problem in caught.value.problems] == [
        "record 1: entry 0 with seed 1 is listed twice in the manifest",
        "record 2: entry: 4 is not in the suite, which has 0 to 3",
        "record 3: seed: True is not a whole number",
        "record 4: the record has no video: the path of a file is needed",
    ]
    path.write_text(json.dumps([{**good, "video": "a.mov"}]), "utf-8")
    with pytest.raises(InputError, match=r"a\.mov is not an \.mp4"):
        exchange.export(exchange.read_manifest(path, suite), suite, ["color"], tmp_path / "out")
    path.write_text(json.dumps([good]), "utf-8")
    with pytest.raises(InputError, match=r"a\.mp4: it cannot be read: No such file"):
        exchange.export(exchange.read_manifest(path, suite), suite, ["color"], tmp_path / "out")


def one_prompt_each(tmp_path: Path, *prompts: str, dimension: str = "scene") -> Suite:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps([{"prompt_en": prompt, "dimension": [dimension]} for prompt in prompts]), "utf-8")
    return read_suite(path)


@pytest.mark.parametrize(
    "prompt",
    [
        *("../../escape", "../../../../../../../tmp/ESCAPE", "/tmp/ESCAPE", "a/b", "a\\b", "a\0b", "a\nb", ".x", ".."),
        *("nul.x", "a very long prompt " * 20, "x\u202ey", "a\uff0fb"),
    ],
)
def test_a_prompt_that_would_leave_the_folder_writes_nothing_at_all(tmp_path: Path, prompt: str) -> None:
    odd = one_prompt_each(tmp_path, "a good one", prompt)
    clips = exchange.read_manifest(manifest(tmp_path, (0, 1), (1, 1)), odd)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(
        InputError, match=r"^\S*odd.json: entry 1: its prompt .* cannot be the name of a file"
    ) as caught:
        exchange.export(clips, odd, ["scene"], tmp_path / "a" / "b")

    assert str(caught.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


def test_prompts_of_other_dimensions_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps([*ENTRIES, {"prompt_en": "a/b", "dimension": ["human_action"]}]), "utf-8")
    odd = read_suite(path)
    clips = exchange.read_manifest(manifest(tmp_path, (0, 1), (4, 1)), odd)
    assert len(exchange.export(clips, odd, ["color"], tmp_path / "out")) == 1


def test_names_that_meet_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    odd = one_prompt_each(tmp_path, "the same", "another", "the same")
    clips = exchange.read_manifest(manifest(tmp_path, (0, 1), (1, 1), (2, 1)), odd)
    with pytest.raises(InputError, match="entries 0 and 2 have the same prompt 'the same' in scene"):
        exchange.export(clips, odd, ["scene"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over_or_through_a_link(tmp_path: Path) -> None:
    odd = one_prompt_each(tmp_path, "a", "b")
    clips = exchange.read_manifest(manifest(tmp_path, (0, 1), (1, 1)), odd)
    (tmp_path / "out/scene").mkdir(parents=True)
    (tmp_path / "out/scene/b-0.mp4").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"b-0\.mp4 exists already"):
        exchange.export(clips, odd, ["scene"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*.mp4")] == ["b-0.mp4"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    odd = one_prompt_each(tmp_path, "a", "b")
    clips = exchange.read_manifest(manifest(tmp_path, (0, 1), (1, 1)), odd)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"--to: .* cannot be written"):
        exchange.export(clips, odd, ["scene"], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize(
    "video", ["http:/127.0.0.1:1/x.mp4", "https://example.com/x.mp4", "rtmp://x/y", "file:///x.mp4"]
)
def test_a_manifest_names_files_and_no_addresses(tmp_path: Path, suite: Suite, video: str) -> None:
    path = tmp_path / "clips.json"
    path.write_text(json.dumps([{"video": video, "entry": 0, "seed": 1}]), "utf-8")
    with pytest.raises(InputError, match="is an address; a manifest names files"):
        exchange.read_manifest(path, suite)
    place = tmp_path / video
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()  # a folder of that name is a folder
    assert exchange.read_manifest(path, suite)[0].video == place


@pytest.mark.parametrize("video", ["", "a\0.mp4", "a\nb.mp4", "\ud800.mp4", "\x1b[31m.mp4"])
def test_a_manifest_names_no_file_that_nobody_can_write(tmp_path: Path, suite: Suite, video: str) -> None:
    path = tmp_path / "clips.json"
    path.write_text(json.dumps([{"video": video, "entry": 0, "seed": 1}]), "utf-8")
    with pytest.raises(InputError, match=r"control character|has no video|lone surrogate") as caught:
        exchange.read_manifest(path, suite)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["{[", "{", "nope", "[" * 250, "NaN", "9" * 200, '{"a": 1, "a": 2}', "'a'", '{"color": "red"} x']
)
def test_labels_that_no_suite_wrote_are_a_persons_own(text: str) -> None:
    assert entry_of({SUITE_ENTRY_LABEL: "3", "vbench.color": text}) is None
    assert entry_of({SUITE_ENTRY_LABEL: "3", "vbench.color": '{"color": "red"}'}) is not None
