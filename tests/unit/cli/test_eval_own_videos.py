"""`vgen eval run` over one's own videos: interrupted and gone on with, with prompts from a file or a manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.scoring import run as scoring
from tests.data.vbench_oracle import tiny_weights
from tests.unit.cli.conftest import Vgen

CLIPS = Path(tiny_weights.__file__).parent / "clips"
METRICS = "checks.black,vbench.temporal_flickering"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("cut", "one_frame", "two_frames"):
        shutil.copyfile(CLIPS / f"{name}.mp4", folder / f"{name}.mp4")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    read_clip = scoring.read_clip

    def counting(path: Path, max_bytes: int) -> Any:
        names.append(path.stem)
        return read_clip(path, max_bytes)

    monkeypatch.setattr(scoring, "read_clip", counting)
    return names


def test_what_the_output_has_is_not_computed_again(vgen: Vgen, folder: Path, decoded: list[str]) -> None:
    # Given an output that was scored by one of the metrics, and one of whose clips was never reached
    target = folder.parent / "scores.json"
    vgen("eval", "run", folder / "cut.mp4", folder / "one_frame.mp4", "--metrics", METRICS, "--output", target)
    assert decoded == ["cut", "one_frame"]
    decoded.clear()

    # When the command is given again, for all clips
    outcome = vgen("eval", "run", folder, "--metrics", METRICS, "--output", target, "--json")

    # Then only what has no score is computed: a clip too short for a metric is looked at again
    assert decoded == ["one_frame", "two_frames"]
    assert "3 scores of 2 clips are kept" in outcome.err
    records = json.loads(target.read_text("utf-8"))
    assert [Path(record["video"]).stem for record in records] == ["cut", "one_frame", "two_frames"]
    assert [clip["scores"] for clip in outcome.json["clips"]] == [record["scores"] for record in records]
    assert records[0]["pixels"] == outcome.json["clips"][0]["pixels"]

    # And the whole once more says the same, and computes nothing of a clip that has all its scores
    decoded.clear()
    again = vgen("eval", "run", folder, "--metrics", METRICS, "--output", target, "--json")
    assert (decoded, again.code, again.json) == (["one_frame"], outcome.code, outcome.json)


@pytest.mark.parametrize("change", ["file", "prompt", "scorer"])
def test_what_has_changed_is_computed_again(vgen: Vgen, folder: Path, decoded: list[str], change: str) -> None:
    target, options = folder.parent / "scores.json", ("--metrics", METRICS, "--output")
    vgen("eval", "run", folder / "cut.mp4", *options, target, "--text-prompt", "a fox")
    records = json.loads(target.read_text("utf-8"))
    records[0]["scores"]["vbench.color"] = {"name": "vbench.color", "score": 0.5, "details": {"weight": 1}}
    if change == "scorer":
        for name in METRICS.split(","):
            records[0]["scores"][name]["details"]["scorer"]["decoder"] = "PyAV 1"
    target.write_text(json.dumps(records), "utf-8")
    if change == "file":
        shutil.copyfile(CLIPS / "static.mp4", folder / "cut.mp4")
    decoded.clear()

    text = "a cat" if change == "prompt" else "a fox"
    outcome = vgen("eval", "run", folder / "cut.mp4", *options, target, "--text-prompt", text)

    assert (decoded, "there already" in outcome.err) == (["cut"], False)
    (record,) = json.loads(target.read_text("utf-8"))
    # What another program scored stays, unless the clip is another one now
    assert ("vbench.color" in record["scores"]) is (change != "file")


def test_an_interrupted_run_loses_nothing_of_what_was_there(
    vgen: Vgen, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder.parent / "scores.json"
    vgen("eval", "run", folder, "--metrics", METRICS, "--output", target)
    before = json.loads(target.read_text("utf-8"))

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "read_clip", interrupted)
    vgen("eval", "run", folder, "--metrics", f"{METRICS},checks.frozen", "--output", target)

    after = {record["video"]: record["scores"] for record in json.loads(target.read_text("utf-8"))}
    assert {record["video"]: record["scores"] for record in before} == after


def test_an_output_that_is_something_else_is_not_written_over(vgen: Vgen, folder: Path) -> None:
    target = folder.parent / "notes.json"
    target.write_text('{"mine": 1}', "utf-8")
    outcome = vgen("eval", "run", folder, "--output", target)
    assert (outcome.code, target.read_text("utf-8")) == (2, '{"mine": 1}')
    assert "it is not a list of {video, scores}" in outcome.err


def test_prompts_come_from_a_file_by_path_or_name(vgen: Vgen, folder: Path) -> None:
    prompts = folder.parent / "prompts.json"
    prompts.write_text(json.dumps({"clips/cut.mp4": "a fox", "one_frame.mp4": "a cat", "two_frames.mp4": "a dog"}))
    outcome = vgen("eval", "run", folder, "--prompts", prompts, "--metrics", "checks.length", "--json")
    assert [clip["prompt"] for clip in outcome.json["clips"]] == ["a fox", "a cat", "a dog"]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"cut.mp4": "a fox"}, "the file of prompts does not name "),
        ({"cut.mp4": 3, "one_frame.mp4": "x", "two_frames.mp4": "x"}, "cut.mp4: 3 is not a valid prompt"),
        (["a fox"], "the content is not a JSON object {video: prompt}"),
        ({}, "the content is not a JSON object {video: prompt}"),
    ],
)
def test_a_file_of_prompts_that_does_not_fit_is_refused(vgen: Vgen, folder: Path, content: object, rule: str) -> None:
    prompts = folder.parent / "prompts.json"
    prompts.write_text(json.dumps(content))
    outcome = vgen("eval", "run", folder, "--prompts", prompts)
    assert (outcome.code, outcome.out) == (2, "")
    assert rule in outcome.err
    both = vgen("eval", "run", folder, "--prompts", prompts, "--text-prompt", "a fox")
    assert (both.code, "--prompts: goes with no --text-prompt" in both.err) == (2, True)


def test_a_name_that_could_be_of_two_videos_is_refused(vgen: Vgen, folder: Path) -> None:
    (folder / "more").mkdir()
    shutil.copyfile(CLIPS / "cut.mp4", folder / "more/cut.mp4")
    prompts = folder.parent / "prompts.json"
    prompts.write_text(json.dumps(dict.fromkeys(("cut.mp4", "one_frame.mp4", "two_frames.mp4"), "a fox")))
    outcome = vgen("eval", "run", folder, "--prompts", prompts)
    assert (outcome.code, "'cut.mp4' is the file name of 2 videos: use their paths" in outcome.err) == (2, True)
    assert outcome.err.count("is the file name of") == 1


def test_the_manifest_of_downloaded_clips_says_what_they_are(vgen: Vgen, folder: Path) -> None:
    labels = {"suite.entry": "4", "vbench.temporal_flickering": "", "vbench.color": '"red"'}
    lines = [
        {"file": "cut.mp4", "job": {"prompt": "a fox", "seed": 7, "labels": labels}, "prompt_used": "a red fox"},
        {"file": "one_frame.mp4", "job": {"prompt": "a cat", "seed": 8, "labels": {}}},
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")

    outcome = vgen("eval", "run", folder, "--metrics", METRICS, "--json")

    facts = [(clip["prompt"], clip["entry"], clip["seed"]) for clip in outcome.json["clips"]]
    assert facts == [("a fox", 4, 7), ("a cat", None, 8), (None, None, None)]


@pytest.mark.parametrize("content", ["{", '{"file": 3}', '{"file": "cut.mp4", "job": {}}', "[]", "\xff"])
def test_another_programs_manifest_is_named_and_passed_over(vgen: Vgen, folder: Path, content: str) -> None:
    (folder / "manifest.jsonl").write_text(content, "latin-1")
    outcome = vgen("eval", "run", folder / "cut.mp4", "--metrics", METRICS, "--json")
    assert outcome.json["clips"][0]["prompt"] is None
    assert f"not read: {folder}/manifest.jsonl" in outcome.err
    assert "Traceback" not in outcome.err


def test_several_devices_score_a_folder_as_one_does(vgen: Vgen, folder: Path) -> None:
    alone = vgen("eval", "run", folder, "--metrics", METRICS, "--json")
    together = vgen("eval", "run", folder, "--metrics", METRICS, "--device", "cpu,cpu", "--json")
    assert (together.code, together.json) == (alone.code, alone.json)
    for devices in ("cpu,cuda", ","):
        outcome = vgen("eval", "run", folder, "--device", devices)
        assert (outcome.code, "--device: " in outcome.err, "of one kind" in outcome.err) == (2, True, True)


@pytest.mark.parametrize("pictures", [(), ("cut.png",), ("cut.png", "cut.jpg", "one_frame.png", "two_frames.png")])
def test_each_video_needs_its_picture(vgen: Vgen, folder: Path, pictures: tuple[str, ...]) -> None:
    images = folder.parent / "images"
    images.mkdir()
    for name in pictures:
        (images / name).write_bytes(b"a picture")
    outcome = vgen("eval", "run", folder, "--image", images, "--metrics", METRICS)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--image: " in outcome.err
    assert "it needs one of that name" in outcome.err
    missing = vgen("eval", "run", folder, "--image", images / "none", "--metrics", METRICS)
    assert (missing.code, "none does not exist" in missing.err) == (2, True)


def test_a_clip_without_its_reference_or_prompt_is_not_scored_and_the_rest_is(vgen: Vgen, folder: Path) -> None:
    references, prompts = folder.parent / "references", folder.parent / "prompts.json"
    references.mkdir()
    for name in ("one_frame", "two_frames"):
        shutil.copyfile(folder / f"{name}.mp4", references / f"{name}.mp4")
    outcome = vgen("eval", "run", folder, "--reference", references, "--metrics", "common.psnr", "--json")
    scores = {Path(clip["video"]).stem: clip["scores"]["common.psnr"] for clip in outcome.json["clips"]}
    assert outcome.code == 3
    assert (scores["one_frame"]["score"], scores["two_frames"]["score"], scores["cut"]["score"]) == (100, 100, None)
    assert "cut.mp4" in scores["cut"]["details"]["reason"]
    assert f"--reference: {references / 'cut.mp4'} is not there" in outcome.err

    prompts.write_text(json.dumps({"one_frame.mp4": "a fox", "two_frames.mp4": "a fox"}))
    outcome = vgen("eval", "run", folder, "--prompts", prompts, "--metrics", METRICS, "--json")
    assert (outcome.code, [clip["prompt"] for clip in outcome.json["clips"]]) == (3, [None, "a fox", "a fox"])
    assert outcome.err.count("the file of prompts does not name") == 1

    # Where most have none, it is the wrong folder or file
    (references / "one_frame.mp4").unlink()
    refused = vgen("eval", "run", folder, "--reference", references, "--metrics", "common.psnr")
    assert (refused.code, refused.out) == (2, "")


def test_a_name_with_a_line_break_keeps_its_message_in_one_line(vgen: Vgen, folder: Path) -> None:
    (folder / "cut.mp4").rename(folder / "cut\nout.mp4")
    refused = vgen("eval", "run", folder, "--reference", folder.parent, "--metrics", "common.psnr")
    assert len([line for line in refused.err.splitlines() if "is not there" in line]) == 3
    assert "cut\\nout.mp4 is not there" in refused.err
    unknown = vgen("eval", "run", "no\nvideo.mp4")
    assert unknown.err.splitlines()[-1].endswith("no file matches the pattern")
    assert len(unknown.err.splitlines()) == 1


def test_scores_of_parts_are_pooled_apart_and_the_static_filter_is_applied(vgen: Vgen, tmp_path: Path) -> None:
    names = ("vbench.temporal_flickering", "vbench_long.temporal_flickering", "vbench_tools.static_filter")

    def record(seed: int, whole: float, parts: float, static: float) -> dict[str, Any]:
        values = dict(zip(names, (whole, parts, static), strict=True))
        scores = {name: {"name": name, "score": value, "details": {"weight": 2}} for name, value in values.items()}
        scores[names[0]]["details"] = {"weight": 2, "long_clip_scored_whole": True}
        return {"video": f"{seed}.mp4", "entry": 0, "seed": seed, "scores": scores}

    file = tmp_path / "scores.json"
    file.write_text(json.dumps([record(1, 0.9, 0.8, 1.0), record(2, 0.5, 0.4, 0.0)]), "utf-8")

    whole, long = (vgen("eval", "aggregate", file, *option, "--json").json for option in ((), ("--long",)))

    for view, value in ((whole, 0.9), (long, 0.8)):
        flickering = next(one for one in view["dimensions"] if one["name"] == "temporal_flickering")
        assert (flickering["value"], flickering["scored"]) == (value, 1)
        assert any("of the 1 clips that the static filter keeps, of 2" in notice for notice in view["notices"])
    assert any(notice.startswith("2 scores are of clips of 5 s and more") for notice in whole["notices"])
    assert not any("5 s and more" in notice for notice in long["notices"])
