"""cancel, retry, approve, reject and rerun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.presets import get_preset
from pipeline.spec import JobSpec
from pipeline.states import JobState
from tests.unit.cli.conftest import Home, Vgen


def test_cancelling_a_batch_spares_what_succeeded(home: Home, vgen: Vgen) -> None:
    home.succeed(home.job_ids[0])

    outcome = vgen("cancel", home.batch_id, "--json")

    assert outcome.json == {"changed": home.job_ids[1:], "unchanged": [], "reasons": {}}
    counts = vgen("status", "--json").json["batch"]["counts"]
    assert (counts["succeeded"], counts["cancelled"]) == (1, 2)
    again = vgen("cancel", home.job_ids[0], "--json").json
    assert (again["changed"], again["unchanged"]) == ([], [home.job_ids[0]])
    assert again["reasons"][home.job_ids[0]].startswith("it is succeeded")


def test_retry_puts_failed_and_cancelled_jobs_back_in_line(home: Home, vgen: Vgen) -> None:
    vgen("cancel", home.job_ids[1])

    outcome = vgen("retry", home.batch_id)

    assert outcome.code == 0
    assert "vgen run" in outcome.out
    assert vgen("status", "--json").json["batch"]["counts"]["waiting"] == 3


def test_held_jobs_are_approved_or_rejected(home: Home, vgen: Vgen) -> None:
    home.hold(home.job_ids[0])
    home.hold(home.job_ids[1])

    assert vgen("approve", home.job_ids[0], "--json").json["changed"] == [home.job_ids[0]]
    assert vgen("reject", home.batch_id, "--json").json["changed"] == [home.job_ids[1]]

    states = [job["state"] for job in vgen("list", "latest", "--json").json["jobs"]]
    assert states == ["waiting", "blocked", "waiting"]
    assert vgen("approve", home.job_ids[2], "--json").json["unchanged"] == [home.job_ids[2]]


def test_nothing_changes_when_one_of_the_ids_does_not_exist(home: Home, vgen: Vgen) -> None:
    outcome = vgen("cancel", home.job_ids[0], "zz-000000")

    assert outcome.code == 2
    assert vgen("status", "--json").json["batch"]["counts"]["waiting"] == 3


def test_watch_ends_with_3_when_only_a_person_can_go_on(home: Home, vgen: Vgen) -> None:
    for job_id in home.job_ids[:2]:
        home.succeed(job_id)
    home.hold(home.job_ids[2])

    outcome = vgen("watch")

    assert outcome.code == 3
    assert "vgen approve" in outcome.out


def test_rerun_of_a_job_makes_a_new_batch_with_the_same_specification(home: Home, vgen: Vgen) -> None:
    new = vgen("rerun", home.job_ids[0], "--json").json["batch"]

    assert new["id"] != home.batch_id
    before = vgen("show", home.job_ids[0], "--json").json["spec"]
    assert vgen("show", f"{new['id']}-000000", "--json").json["spec"] == before


def _sidecar(**changes: object) -> dict[str, object]:
    spec = JobSpec(
        prompt="a fox", seed=3, preset="tiny-wan", width=96, height=96, num_frames=17, fps=8,
        num_inference_steps=2, guidance_scale=4, enhance=True,
    )  # fmt: skip
    return {
        "schema": "vgen.sidecar/1",
        "request": spec.model_dump(mode="json"),
        "prompt_used": "a fox in golden light",
        "preset": {"name": "tiny-wan", "version": get_preset("tiny-wan").version},
        "encode": {"codec": "libx264", "quality": 20, "preset": "medium", "threads": 2},
        **changes,
    }


def test_rerun_of_a_sidecar_pins_the_enhanced_prompt(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "clip.json"
    file.write_text(json.dumps(_sidecar()), "utf-8")

    new = vgen("rerun", file, "--json").json["batch"]

    spec = vgen("show", f"{new['id']}-000000", "--json").json["spec"]
    assert (spec["prompt"], spec["enhance"], spec["seed"]) == ("a fox in golden light", False, 3)


def test_rerun_says_when_the_preset_has_another_version_now(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "clip.json"
    file.write_text(json.dumps(_sidecar(preset={"name": "tiny-wan", "version": 999})), "utf-8")

    outcome = vgen("rerun", file)

    assert outcome.code == 0
    assert "version 999" in outcome.err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "vgen.sidecar/1"}', "\x00"])
def test_rerun_refuses_what_is_no_sidecar(home: Home, vgen: Vgen, tmp_path: Path, text: str) -> None:
    file = tmp_path / "clip.json"
    file.write_text(text, "utf-8")

    outcome = vgen("rerun", file)

    assert outcome.code == 2
    assert str(file) in outcome.err


def test_a_failed_job_does_not_hide_behind_its_siblings(home: Home, vgen: Vgen) -> None:
    home.end(home.job_ids[0], JobState.BLOCKED, error_code="unsafe_prompt", error="refused")

    assert vgen("list", "latest", "--state", "blocked", "--json").json["jobs"][0]["error_code"] == "unsafe_prompt"
    assert vgen("list", "latest", "--state", "nonesuch").code == 2
