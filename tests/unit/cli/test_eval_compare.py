"""`vgen eval compare` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

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


@pytest.mark.parametrize(
    ("loss", "advice", "code"),
    [(3.0, "alarm: it repeats with a second seed set", 3), (-3.0, "no alarm: it did not repeat", 0)],
)
def test_a_second_seed_set_decides_on_the_alarm(
    vgen: Vgen, tmp_path: Path, loss: float, advice: str, code: int
) -> None:
    first = _scores(tmp_path / "a.json", 0.0), _scores(tmp_path / "b.json", 3.0)
    second = _scores(tmp_path / "c.json", 0.0, seed=2), _scores(tmp_path / "d.json", loss, seed=2)
    assert "repeat with a second seed set" in vgen("eval", "compare", *first, "--margin", f"{NAME}=1").out

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
        ({"score": 1, "details": [1]}, "its details are not an object"),
        ({"score": 1, "details": {"weight": "x"}}, "its details.weight is not a number from -1e+50"),
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
        ((good, good, "--margin", NAME), "a margin is NAME=VALUE with a number"),
        ((good, good, "--margin", f"{NAME}=-1"), "a margin is a number of at least 0"),
        ((good, good, "--margin", "checks.black=1"), "checks.black: neither run has this metric"),
        ((good, good, "--metrics", "nothing"), "'nothing' is not a metric or a group"),
        ((good, good, "--html", tmp_path / "no/such/r.html"), "no/such/r.html"),
    ):
        outcome = vgen("eval", "compare", *arguments)
        assert (outcome.code, outcome.out) == (2, ""), arguments
        assert message in outcome.err
