"""`vgen eval` as a person calls it, on the stored corner-case clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.scoring.weight_files import WEIGHT_FILES
from tests.data.vbench_oracle import tiny_weights
from tests.unit.cli.conftest import Vgen

CLIPS = Path(tiny_weights.__file__).parent / "clips"


@pytest.fixture(autouse=True)
def _no_hub_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scoring.weights.try_to_load_from_cache", lambda *_: None)


def test_a_folder_is_scored_into_the_references_json(vgen: Vgen, tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    outcome = vgen("eval", "run", CLIPS, "--metrics", "vbench.temporal_flickering,checks.black", "--output", target)
    assert (outcome.code, outcome.err) == (3, "failed checks: 1, on 1 clips\n")
    written = json.loads(target.read_text("utf-8"))
    assert [Path(record["video"]).stem for record in written] == sorted(path.stem for path in CLIPS.glob("*.mp4"))
    scores = {Path(record["video"]).stem: record["scores"]["vbench.temporal_flickering"] for record in written}
    assert scores["one_frame"]["score"] is None
    assert scores["one_frame"]["details"] == {"reason": "needs at least 2 frames; this clip has 1"}
    assert scores["black"]["score"] == 1.0
    assert scores["cut"]["details"]["weight"] == 9
    assert "cut.mp4\tchecks.black\t0 pass" in outcome.out


def test_files_globs_and_folders_name_each_video_once(vgen: Vgen) -> None:
    outcome = vgen(
        "eval", "run", CLIPS / "cut.mp4", CLIPS / "c*.mp4", "--videos", CLIPS / "fast.mp4", "--metrics", "checks.size",
        "--size", "128x128", "--json",
    )  # fmt: skip
    clips = outcome.json["clips"]
    assert [Path(clip["video"]).stem for clip in clips] == ["cut", "fast"]
    assert [clip["scores"]["checks.size"]["details"]["passed"] for clip in clips] == [True, False]
    assert outcome.code == 3


def test_a_reference_by_name_and_a_group_that_leaves_out(vgen: Vgen, tmp_path: Path) -> None:
    shutil.copyfile(CLIPS / "fast.mp4", tmp_path / "fast.mp4")
    shutil.copyfile(CLIPS / "wide.mp4", tmp_path / "cut.mp4")
    outcome = vgen(
        "eval", "run", CLIPS / "cut.mp4", CLIPS / "fast.mp4", "--reference", tmp_path,
        "--metrics", "common,vbench-free", "--json",
    )  # fmt: skip
    cut, fast = (clip["scores"] for clip in outcome.json["clips"])
    assert fast["common.ssim"]["score"] == pytest.approx(1.0)
    assert fast["common.psnr"]["score"] == 100
    assert cut["common.psnr"]["score"] is None
    assert (
        "the clip has 10 frames of 128x128, its reference 7 frames of 228x128"
        in cut["common.psnr"]["details"]["reason"]
    )
    assert len(outcome.json["left_out"]) == 8
    assert "left out: vbench.dynamic_degree: weights missing: raft-things.pth" in outcome.err
    assert outcome.err.count("no weights directory is set") == 1


def test_a_group_whose_metrics_all_lack_their_weights_is_not_done(vgen: Vgen, tmp_path: Path) -> None:
    run = ("eval", "run", CLIPS / "two_frames.mp4", "--weights", tmp_path)
    outcome = vgen(*run, "--metrics", "checks.black,vbench-free")
    assert outcome.code == 3
    assert "incomplete: of a group that was asked for every metric lacks its weights: vbench." in outcome.err
    assert "checks.black" in outcome.out

    # Where one of the group could score, those that could not are named and the rest is what was asked for
    tiny_weights.write_all(tmp_path)
    (tmp_path / "raft-things.pth").unlink()
    outcome = vgen(*run, "--metrics", "checks.black,vbench-free")
    assert (outcome.code, "left out: vbench.dynamic_degree: weights missing" in outcome.err) == (0, True), outcome.err


def test_bad_input_is_said_by_field_value_and_rule(vgen: Vgen, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for arguments, code, message in (
        ((tmp_path / "none.mp4",), 2, "the file or folder does not exist"),
        ((CLIPS.parent.parent.parent / "rules.py", "--metrics", "checks"), 3, "it cannot be decoded"),
        ((broken,), 3, f"not read: {broken}: it cannot be decoded"),
        ((), 2, "VIDEO: give videos, or --manifest"),
        ((CLIPS, "--metrics", "psnr"), 2, "metrics: 'psnr' is not a metric or a group; did you mean common.psnr"),
        ((CLIPS, "--metrics", "common.psnr"), 2, "common.psnr: needs a reference clip (--reference)"),
        ((CLIPS, "--metrics", "vbench.color"), 2, "scored by another program"),
        ((CLIPS, "--metrics", "vbench.aesthetic_quality"), 2, "weights missing: ViT-L-14.pt"),
        ((CLIPS, "--reference", CLIPS / "cut.mp4"), 2, "is one file, and there are 16 videos"),
        ((CLIPS / "cut.mp4", "--reference", tmp_path), 2, "--reference: "),
        ((CLIPS, "--text-prompt", "a", "--text-prompt", "b"), 2, "2 were given for 16 videos"),
        ((CLIPS, "--size", "big"), 2, "--size: 'big' is not of the form 832x480"),
        ((CLIPS, "--fps", "0"), 2, "--fps: 0.0 is not above 0"),
        ((CLIPS, "--weights", tmp_path / "none"), 2, "is not a folder"),
        ((CLIPS, "--manifest", tmp_path / "m.json"), 2, "--manifest: cannot be combined with videos"),
    ):
        outcome = vgen("eval", "run", *arguments)
        assert (outcome.code, message in outcome.err, "Traceback" in outcome.err) == (code, True, False), outcome


def test_list_says_ready_missing_and_external(vgen: Vgen, tmp_path: Path) -> None:
    listed = vgen("eval", "list", "--group", "vbench", "--json").json
    states = {metric["name"]: metric["state"] for metric in listed["metrics"]}
    assert len(states) == 16
    assert states["vbench.temporal_flickering"] == "ready"
    assert states["vbench.scene"] == "external"
    assert states["vbench.imaging_quality"] == "weights missing"
    (missing,) = next(m["missing"] for m in listed["metrics"] if m["name"] == "vbench.dynamic_degree")
    assert missing.startswith("raft-things.pth: no weights directory is set (VGEN_EVAL_WEIGHTS_DIR, --weights)")
    (tmp_path / "raft-things.pth").touch()
    rows = vgen("eval", "list", "--group", "vbench-free", "--weights", tmp_path).rows
    assert ["vbench.dynamic_degree", "ready"] in [row[:2] for row in rows]
    assert vgen("eval", "list", "--group", "none").code == 2


def test_weights_are_listed_and_checked(vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_EVAL_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "raft-things.pth").write_bytes(b"mine")
    files = {file["name"]: file for file in vgen("eval", "weights", "list", "--json").json["files"]}
    assert len(files) == len(WEIGHT_FILES)
    assert files["raft-things.pth"]["status"] == "found"
    used = [
        *("vbench.dynamic_degree", "vbench_tools.static_filter"),
        *("motion.warp_error", "vbench_long.dynamic_degree"),
    ]
    assert files["raft-things.pth"]["used_by"] == used
    checked = vgen("eval", "weights", "check", "raft-things.pth", "--json")
    assert checked.code == 3
    assert checked.json["files"][0]["status"] == "other"
    assert checked.json["files"][0]["problem"].startswith("4 bytes, sha256")
    assert "'raft' is not a weight file" in vgen("eval", "weights", "check", "raft").err
    monkeypatch.delenv("VGEN_EVAL_WEIGHTS_DIR")
    assert "no weights directory is set" in vgen("eval", "weights", "pull", "raft-things.pth").err


def test_a_suite_goes_out_and_its_results_come_back_into_the_sums(vgen: Vgen, tmp_path: Path) -> None:
    # Given a suite of one prompt in all 16 dimensions, and two clips of it
    suite, manifest, scores, out = (tmp_path / name for name in ("suite.json", "clips.json", "scores.json", "out"))
    listed = vgen("eval", "list", "--group", "vbench", "--json").json["metrics"]
    dimensions = [metric["name"].removeprefix("vbench.") for metric in listed]
    suite.write_text(json.dumps([{"prompt_en": "a bike", "dimension": dimensions}]), "utf-8")
    shutil.copyfile(CLIPS / "cut.mp4", tmp_path / "b.mp4")
    shutil.copyfile(CLIPS / "static.mp4", tmp_path / "a.mp4")
    clips = [{"video": "b.mp4", "entry": 0, "seed": 5}, {"video": "a.mp4", "entry": 0, "seed": 9}]
    manifest.write_text(json.dumps(clips), "utf-8")
    common = ("--manifest", manifest, "--suite", suite)

    # When one dimension is scored here, and the others by the official code
    assert vgen("eval", "run", *common, "--metrics", "vbench.temporal_flickering", "--output", scores).code == 0
    others = [name for name in dimensions if name != "temporal_flickering"]
    given = [word for name in others for word in ("--dimension", name)]
    exported = vgen("eval", "export", *common, "--to", out, *given, "--json")
    assert exported.json["files"] == dict.fromkeys(others, 2)
    official = {
        name: [0.5, [{"video_path": f"x/a bike-{i}.mp4", "video_results": [0.25, 0.75][i]} for i in range(2)]]
        for name in others
    }
    (tmp_path / "r_eval_results.json").write_text(json.dumps(official), "utf-8")
    incomplete = vgen("eval", "aggregate", scores, "--json").json
    imported = vgen("eval", "import", tmp_path / "r_eval_results.json", "--export", out, "--scores", scores, "--json")

    # Then the sums are there, and were not before; clips are told apart by seed, whatever their names
    assert incomplete["total"] is None
    assert len(incomplete["missing"]) == 15
    assert imported.json["imported"] == dict.fromkeys(others, 2)
    records = json.loads(scores.read_text("utf-8"))
    assert [(record["seed"], record["scores"]["vbench.color"]["score"]) for record in records] == [(5, 0.25), (9, 0.75)]
    whole = vgen("eval", "aggregate", scores, "--json").json
    values = {one["name"]: one["value"] for one in whole["dimensions"]}
    assert values["color"] == 0.5
    assert values["subject_consistency"] == pytest.approx((9 * 0.25 + 4 * 0.75) / 13)
    assert values["imaging_quality"] == 0.005
    assert whole["total"] == pytest.approx((4 * whole["quality"] + whole["semantic"]) / 5)
    assert "total (of 16)" in vgen("eval", "aggregate", scores).out

    # And scores that were made otherwise are pointed out
    records[1]["scores"]["vbench.temporal_flickering"]["details"]["scorer"]["decoder"] = "another"
    scores.write_text(json.dumps(records), "utf-8")
    assert "vbench.temporal_flickering: scores of several scorers are mixed" in vgen("eval", "aggregate", scores).err
    scores.write_text("{}")
    assert "it is not a list of {video, scores}" in vgen("eval", "aggregate", scores).err
