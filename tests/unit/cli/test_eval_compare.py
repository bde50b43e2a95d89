"""`vgen eval compare` as a person calls it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.vbench_oracle import tiny_weights
from tests.unit.cli.conftest import Vgen

CLIPS = Path(tiny_weights.__file__).parent / "clips"
NAME = "vbench.imaging_quality"


def _scores(path: Path, loss: float, **more: object) -> Path:
    records = [
        {
            "video": f"{entry}.mp4",
            "entry": entry,
            "seed": 1,
            "scores": {NAME: {"name": NAME, "score": 70 - loss * (1 + entry / 10), "details": {"weight": 1}}},
            **more,
        }
        for entry in range(8)
    ]
    path.write_text(json.dumps(records), "utf-8")
    return path


@pytest.mark.parametrize(
    ("loss", "margin", "state", "code"),
    [(0.1, "1", "ok", 0), (3.0, "1", "regressed", 3), (0.7, "1", "inconclusive", 3), (3.0, None, "no_calibration", 3)],
)
def test_the_exit_code_is_the_gate(
    vgen: Vgen, tmp_path: Path, loss: float, margin: str | None, state: str, code: int
) -> None:
    before, after = _scores(tmp_path / "a.json", 0.0), _scores(tmp_path / "b.json", loss)
    options = [] if margin is None else ["--margin", f"{NAME}={margin}"]

    outcome = vgen("eval", "compare", before, after, *options, "--json")

    assert (outcome.json["state"], outcome.code) == (state, code)
    assert vgen("eval", "compare", before, after, *options).out.startswith(f"state\t{state}\n")


def test_reports_are_written_where_they_are_wanted(vgen: Vgen, tmp_path: Path) -> None:
    before, after = _scores(tmp_path / "a.json", 0.0), _scores(tmp_path / "b.json", 3.0)
    page, text = tmp_path / "r.html", tmp_path / "r.md"

    outcome = vgen(
        "eval",
        "compare",
        before,
        after,
        "--margin",
        f"{NAME}=1",
        "--history",
        before,
        "--html",
        page,
        "--markdown",
        text,
    )

    assert outcome.code == 3
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert "<h2>History</h2>" in page.read_text("utf-8")
    assert text.read_text("utf-8").startswith("# regressed")


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_compared(vgen: Vgen, tmp_path: Path) -> None:
    before, after = _scores(tmp_path / "a.json", 0.0), _scores(tmp_path / "b.json", 3.0)
    for option, file, message in (
        ("--html", tmp_path / "none" / "r.html", "cannot be written: its folder does not exist or is not writable"),
        ("--markdown", tmp_path, "is a folder: name a file in it"),
    ):
        outcome = vgen("eval", "compare", before, after, option, file)
        assert (outcome.code, outcome.out) == (2, "")
        assert f"{option}: {file} {message}" in outcome.err


def test_a_report_is_written_whole_or_not_at_all(vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = _scores(tmp_path / "a.json", 0.0), _scores(tmp_path / "b.json", 3.0)
    page = tmp_path / "r.html"
    page.write_text("the report of yesterday", "utf-8")
    write = Path.write_text

    def full(self: Path, data: str, *arguments: object, **options: object) -> int:
        write(self, data[: len(data) // 2], "utf-8")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    outcome = vgen("eval", "compare", before, after, "--html", page)
    monkeypatch.undo()

    assert (outcome.code != 0, "No space left" in outcome.err, "Traceback" in outcome.err) == (True, True, False)
    assert page.read_text("utf-8") == "the report of yesterday"
    assert [file.name for file in tmp_path.iterdir() if "r.html" in file.name] == ["r.html"]


def test_equal_pixels_are_identical_whatever_the_scores(vgen: Vgen, tmp_path: Path) -> None:
    # Given what `eval run` wrote of the same clip under two names
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps([{"prompt_en": "alley", "dimension": ["temporal_flickering"]}]), "utf-8")
    files = []
    for name in ("one.mp4", "two.mp4"):
        (tmp_path / name).write_bytes((CLIPS / "cut.mp4").read_bytes())
        manifest, scores = tmp_path / "clips.json", tmp_path / f"{name}.json"
        manifest.write_text(json.dumps([{"video": name, "entry": 0, "seed": 1}]), "utf-8")
        vgen("eval", "run", "--manifest", manifest, "--suite", suite, "--metrics", "checks.black", "--output", scores)
        files.append(scores)

    outcome = vgen("eval", "compare", *files)

    assert (outcome.code, outcome.out.splitlines()[0]) == (0, "state\tidentical")
    assert "checks.black\t" in outcome.out


@pytest.mark.parametrize(
    ("loss", "advice", "code"),
    [(3.0, "alarm: it repeats with a second seed set", 3), (-3.0, "no alarm: it did not repeat", 0)],
)
def test_a_second_seed_set_decides_on_the_alarm(
    vgen: Vgen, tmp_path: Path, loss: float, advice: str, code: int
) -> None:
    first = _scores(tmp_path / "a.json", 0.0), _scores(tmp_path / "b.json", 3.0)
    second = _scores(tmp_path / "c.json", 0.0, seed=2), _scores(tmp_path / "d.json", loss, seed=2)
    alone = vgen("eval", "compare", *first, "--margin", f"{NAME}=1").out
    assert "repeat with a second seed set before alarming (`--repeat BASELINE CANDIDATE`)" in alone
    assert f"Metrics in this state: {NAME}" in alone

    outcome = vgen("eval", "compare", *first, "--repeat", *second, "--margin", f"{NAME}=1", "--json")

    assert (outcome.json["advice"], outcome.code) == (advice, code)
    assert [worst["seeds"] for worst in outcome.json["metrics"][0]["worst"]] == [[1, 2]] * (5 if loss > 0 else 0)
    assert vgen("eval", "compare", *first, "--repeat", *first).err == (
        f"vgen: {first[0]} and {first[0]} both have entry 0, seed 1: take other seeds\n"
    )


@pytest.mark.parametrize(
    ("shown", "rule"),
    [
        ({}, "its score is not null or a number from -1e+50 to 1e+50"),
        ({"score": [1]}, "its score is not null or a number from -1e+50 to 1e+50"),
        ({"score": True}, "its score is not null or a number from -1e+50 to 1e+50"),
        ({"score": 1, "details": [1]}, "its details are not an object"),
        ({"score": 1, "details": {"weight": "x"}}, "its details.weight is not a number from 0 to 1e+50"),
        ({"score": 1, "details": {"weight": -1}}, "its details.weight is not a number from 0 to 1e+50"),
    ],
)
def test_a_score_file_written_by_hand_may_be_wrong(vgen: Vgen, tmp_path: Path, shown: object, rule: str) -> None:
    wrong = _scores(tmp_path / "a.json", 0.0, scores={NAME: shown})
    outcome = vgen("eval", "compare", wrong, wrong)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"record 0: {NAME}: {rule}" in outcome.err


def test_bad_input_is_said_by_field_value_and_rule(vgen: Vgen, tmp_path: Path) -> None:
    good, nameless = _scores(tmp_path / "a.json", 0.0), _scores(tmp_path / "b.json", 0.0, entry=None)
    for arguments, message in (
        ((good, nameless), "record 0: entry None, seed 1: only clips with an entry and a seed"),
        ((good, tmp_path / "none.json"), "none.json"),
        ((good, good, "--margin", "nothing=1"), "--margin: 'nothing' is not a metric"),
        ((good, good, "--margin", NAME), "a margin is NAME=VALUE, where VALUE is a number"),
        ((good, good, "--margin", f"{NAME}=-1"), "a margin is a number of at least 0"),
        ((good, good, "--margin", "checks.black=1"), "checks.black: neither run has this metric"),
        ((good, good, "--metrics", "nothing"), "'nothing' is not a metric or a group"),
        ((good, good, "--html", tmp_path / "no/such/r.html"), "no/such/r.html"),
    ):
        outcome = vgen("eval", "compare", *arguments)
        assert (outcome.code, outcome.out) == (2, ""), arguments
        assert message in outcome.err


def _run_of_clips(path: Path, videos: list[str], **scores: float) -> Path:
    """A score file of clips, with no score but those given, by metric, to every clip."""
    made = {name: {"name": name, "score": value, "details": {}} for name, value in scores.items()}
    records = [{"video": video, "entry": entry, "seed": 1, "scores": made} for entry, video in enumerate(videos)]
    path.write_text(json.dumps(records), "utf-8")
    return path


def test_clips_are_compared_with_the_baseline_s_own(vgen: Vgen, tmp_path: Path) -> None:
    # Given clips of which one is another, one cannot be read and one is not there
    names = ["wide", "fast", "square", "ntsc", "tall", "odd_tall", "seven_frames"]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    same = [str(CLIPS / f"{name}.mp4") for name in names]
    before = _run_of_clips(tmp_path / "a.json", [*same, str(CLIPS / "black.mp4"), str(broken), same[0]])
    after = _run_of_clips(tmp_path / "b.json", [*same, str(CLIPS / "noise.mp4"), same[0], "none.mp4"])

    # When they are compared by a likeness, which nobody computed before
    page = tmp_path / "report.html"
    margin = ("--margin", "common.psnr>=40")
    outcome = vgen("eval", "compare", before, after, *margin, "--html", page, "--json")

    # Then the rest is scored, and what is missing is said
    (metric,) = outcome.json["metrics"]
    assert (outcome.code, metric["state"], metric["missing"]) == (3, "incomplete", 2)
    assert metric["reason"].startswith("2 clips could not be compared with the baseline's: ")
    assert metric["prompts"] == 8
    assert [worst["entry"] for worst in metric["worst"]] == [7]
    assert page.read_text("utf-8").count("data:image/jpeg;base64,") == 1

    # And equal clips pass, also by metrics that are only shown
    equal = _run_of_clips(tmp_path / "c.json", same[:2])
    outcome = vgen("eval", "compare", equal, equal, *margin, "--metrics", "common", "--json")
    by_name = {metric["name"]: metric for metric in outcome.json["metrics"]}
    assert (outcome.code, outcome.json["state"]) == (0, "ok")
    assert (by_name["common.psnr"]["candidate"], by_name["common.ssim"]["candidate"]) == (100.0, pytest.approx(1.0))
    assert "left out: common.lpips: weights missing" in outcome.err


def test_a_gated_likeness_without_its_weights_is_refused(vgen: Vgen, tmp_path: Path) -> None:
    run = _run_of_clips(tmp_path / "a.json", [str(CLIPS / "wide.mp4")])
    outcome = vgen("eval", "compare", run, run, "--margin", "common.lpips<=0.05")
    assert (outcome.code, "--margin: common.lpips: weights missing" in outcome.err) == (2, True)


def test_two_clips_of_one_entry_and_seed_are_refused(vgen: Vgen, tmp_path: Path) -> None:
    record = {"video": "a.mp4", "entry": 0, "seed": 1, "scores": {NAME: {"score": 70.0}}}
    doubles = tmp_path / "a.json"
    doubles.write_text(json.dumps([record, {**record, "video": "b.mp4"}]), "utf-8")
    outcome = vgen("eval", "compare", doubles, doubles)
    assert outcome.code == 2
    assert "entry 0, seed 1: there are two clips of it, a.mp4 and b.mp4" in outcome.err


def _of_seed(path: Path, seed: int) -> Path:
    """A run of an unchanged model: scores with chance of their own, of a seed of their own."""
    random = np.random.default_rng(seed)
    records = [
        {"video": f"{seed}-{entry}.mp4", "entry": entry, "seed": seed, "scores": {NAME: {"score": 60 + float(noise)}}}
        for entry, noise in enumerate(random.normal(0, 2, 40))
    ]
    path.write_text(json.dumps(records), "utf-8")
    return path


def test_margins_are_proposed_from_runs_with_other_seeds(vgen: Vgen, tmp_path: Path) -> None:
    runs = [_of_seed(tmp_path / f"{seed}.json", seed) for seed in range(3)]

    outcome = vgen("eval", "calibrate", *runs, "--json")

    (metric,) = outcome.json["metrics"]
    assert (outcome.code, metric["prompts"], outcome.json["passes"]) == (0, 40, 0.95)
    assert outcome.json["margins"] == [metric["option"]] == [f"{NAME}={metric['margin']:g}"]
    assert 1 < metric["margin"] < 3
    assert metric["passes"] >= 0.94
    assert metric["false_alarms"] < 0.01
    assert metric["found"] > metric["margin"]
    text = vgen("eval", "calibrate", *runs)
    assert f'--margin "{metric["option"]}"' in text.out
    assert f"VGEN_NIGHTLY_MARGINS={metric['option']}" in text.err
    same_seeds = vgen("eval", "compare", runs[0], runs[0], "--margin", metric["option"], "--json")
    assert same_seeds.json["state"] == "ok"


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [(1, (), "two runs or more are needed"), (2, ("--metrics", "vbench.scen"), "'vbench.scen' is not a metric")],
)
def test_what_cannot_be_calibrated_is_said(
    vgen: Vgen, tmp_path: Path, runs: int, options: tuple[str, ...], message: str
) -> None:
    files = [_of_seed(tmp_path / f"{seed}.json", seed) for seed in range(runs)]
    outcome = vgen("eval", "calibrate", *files, *options)
    assert (outcome.code, message in outcome.err) == (2, True)
