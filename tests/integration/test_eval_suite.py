"""`vgen eval suite` and `vgen eval run BATCH` on a solo line: clips by entry and seed, scores in rows and files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from db.clips import cancel_retry_approve
from db.evals import runs
from pipeline.scoring.dimensions import action_of
from pipeline.scoring.kinetics import KINETICS_400
from pipeline.scoring.registry import GROUPS
from pipeline.scoring.suite import OWN_SUITE, read_suite
from pipeline.scoring.suite_jobs import entry_of, labels_of
from pipeline.scoring.vbench import DIMENSIONS, EXTERNAL
from tests.line_helpers import home_of, job_list, settings_for
from tests.unit.cli.conftest import Vgen, vgen

__all__ = ["vgen"]
SUITE = [
    {"prompt_en": "a fox", "dimension": ["temporal_flickering", "subject_consistency"]},
    {"prompt_en": "a cat", "dimension": ["imaging_quality"]},
    {"prompt_en": "a fox", "dimension": ["temporal_flickering"]},
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("pipeline.scoring.weights.try_to_load_from_cache", lambda *_: None)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(SUITE), "utf-8")
    return path


def test_a_suite_is_made_scored_and_scored_again(vgen: Vgen, suite: Path, tmp_path: Path) -> None:
    # When a suite's entries of one dimension are submitted and worked off
    asked = ("--preset", "idle", "--seeds", "1,2", "--metrics", "checks.flicker,vbench")
    command = ("eval", "suite", suite, "--dimension", "temporal_flickering", *asked)
    done = vgen(*command, "--wait", "--output", tmp_path / "scores.json", "--json")

    # Then each entry and seed has its clip, scored by what its entry asks for; a group whose models have no weights
    # is not complete
    assert done.code == 3, done.err
    assert (done.json["state"], done.json["expected"]) == ("incomplete", 4)
    assert done.json["summary"]["metrics_without_weights"] == 1
    records = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert [(record["entry"], record["seed"]) for record in records] == [(0, 1), (0, 2), (2, 1), (2, 2)]
    flicker = "vbench.temporal_flickering"
    assert [set(record["scores"]) for record in records[1:3]] == [
        {"checks.flicker", flicker, "vbench.subject_consistency"},
        {"checks.flicker", flicker},
    ]
    assert records[0]["scores"]["vbench.subject_consistency"]["details"]["reason"].startswith("weights missing")
    assert records[0]["scores"][flicker]["score"] == records[2]["scores"][flicker]["score"]

    # And who asks for a clip is told by which attempts it was scored, and what they took
    shown = vgen("show", records[0]["job"], "--json").json["attempts"]
    assert {item["outcome"] for item in shown if item["stage"] == "score"} == {"done"}
    assert "score" in vgen("show", records[0]["job"]).out
    assert "score" in [item["stage"] for item in vgen("report", done.json["batch_id"], "--json").json["stages"]]
    assert "score" in vgen("events", done.json["batch_id"]).out

    # And the same command adds no clip, but scores anew what is not complete
    again = vgen(*command, "--json")
    assert (again.code, again.json["batch_id"]) == (0, done.json["batch_id"])

    # When the batch is scored once more, here
    batch_id = done.json["batch_id"]
    ran = vgen("eval", "run", batch_id, "--metrics", f"checks.black,{flicker}", "--output", tmp_path / "again.json")
    assert ran.code == 0, ran.err
    later = json.loads((tmp_path / "again.json").read_text("utf-8"))
    assert [(one["entry"], one["seed"]) for one in later] == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert [one["scores"][flicker] for one in later] == [one["scores"][flicker] for one in records]

    # Then its scores are rows too, and the run is known
    with home_of(settings_for(tmp_path)) as database, database.reading() as session:
        found = runs.records_of(session, batch_id)
        assert all("checks.black" in record["scores"] for record in found)
    assert [row[2:4] for row in vgen("eval", "runs").rows] == [
        ["batch", "complete"],
        ["suite", "open"],
        ["suite", "incomplete"],
    ]
    assert vgen("eval", "compare", tmp_path / "scores.json", tmp_path / "again.json").code == 3

    # And runs are compared by their ids; what is in files was scored of clips in the store: both play
    page = tmp_path / "report.html"
    worse = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    for record in worse:
        record["scores"][flicker]["score"] -= 0.5 + record["entry"] / 100
        record["pixels"] = "other"
    (tmp_path / "worse.json").write_text(json.dumps(worse), "utf-8")
    compared = vgen(
        "eval", "compare", done.json["id"], tmp_path / "worse.json", "--margin", f"{flicker}=1", "--html", page
    )
    assert "Traceback" not in compared.err
    sources = re.findall('<video src="([^"]+)"', page.read_text("utf-8"))
    assert sources
    assert all(Path(url2pathname(urlsplit(source).path)).is_file() for source in sources)
    assert vgen("eval", "compare", "latest", done.json["id"]).out.startswith("state\t")
    assert "evaluation run 'e1m7zw9b10n745' does not exist" in vgen("eval", "compare", "latest", "e1m7zw9b10n745").err

    # A group of which nothing that needs weights could be computed here leaves the run incomplete too
    lacking = vgen("eval", "run", batch_id, "--metrics", "checks.black,vbench-free")
    assert lacking.code == 3
    assert "scores are stored; it is incomplete: 5 metrics lack their weights" in lacking.err
    assert vgen("eval", "runs").rows[0][2:5] == ["batch", "incomplete", "5 metrics lack their weights"]


def test_a_clip_that_is_missing_makes_the_run_incomplete(vgen: Vgen, suite: Path, tmp_path: Path) -> None:
    submitted = vgen("eval", "suite", suite, "--preset", "idle", "--seeds", "1", "--metrics", "checks", "--json").json
    assert submitted["state"] == "open"
    with home_of(settings_for(tmp_path)) as database:
        for job in job_list(database, submitted["batch_id"]):
            with database.transaction() as session:
                cancel_retry_approve.cancel(session, job.id)

    shown = vgen("eval", "scores", submitted["id"], "--json")

    assert (shown.code, shown.json["state"]) == (3, "incomplete")
    assert shown.json["summary"] == {"missing_clips": 3, "unscored_clips": 0, "unread_clips": 0, "failed_steps": 0}
    here = vgen("eval", "run", submitted["batch_id"], "--metrics", "checks")
    assert (here.code, "it is incomplete: 3 clips are missing" in here.err) == (3, True)


def test_what_cannot_be_is_said(vgen: Vgen, suite: Path) -> None:
    for arguments, message in (
        ((suite, "--own"), "--own: goes with no FILE"),
        ((suite, "--dimension", "colour"), "--dimension: 'colour' is not a VBench dimension"),
        ((suite, "--dimension", "scene"), "has no entry for scene"),
        ((suite.parent / "none.json",), "cannot be read"),
        ((suite, "--metrics", "vbench.color"), "is scored by another program"),
        ((suite, "--label", "a=b"), "--label: a suite's jobs have labels of their own"),
    ):
        outcome = vgen("eval", "suite", *arguments, "--preset", "idle")
        assert (outcome.code, message in outcome.err, "Traceback" in outcome.err) == (2, True, False), outcome
    assert vgen("eval", "run", "1m7zw9b10n745", "--fps", "8").code == 2


def test_vgens_own_suite_has_forty_prompts_or_more_for_each_native_dimension() -> None:
    found = read_suite(OWN_SUITE)

    assert len(found.entries) == len({entry.prompt for entry in found.entries}) == 80
    counts = Counter(name for entry in found.entries for name in entry.dimensions)
    assert set(counts) == set(DIMENSIONS) - set(EXTERNAL)
    assert min(counts.values()) == 40
    free = {name.partition(".")[2] for name in GROUPS["vbench-free"]}
    assert all(free <= set(entry.dimensions) for entry in found.entries)
    for entry in found.entries:
        if "human_action" in entry.dimensions:
            assert action_of(entry.prompt) in KINETICS_400
        if "appearance_style" in entry.dimensions:
            assert entry.prompt.endswith(entry.auxiliary["appearance_style"])
        same = entry_of(labels_of(entry))
        assert same is not None
        assert (same.index, same.dimensions, same.auxiliary) == (entry.index, entry.dimensions, entry.auxiliary)
