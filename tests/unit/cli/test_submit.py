"""Storing a prompt file: once, all or nothing, and what is said about it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy.orm import Session

from db.clips import batches
from pipeline.prompts import Submission
from pipeline.wiring import make_storage
from tests.unit.cli.conftest import Home, Vgen


def test_submitting_the_same_file_twice_adds_nothing_and_says_so(home: Home, vgen: Vgen) -> None:
    # Given a file that is stored, when it is submitted again
    again = vgen("submit", home.file, "--json")

    # Then the batch is the same one
    assert again.code == 0
    assert again.json["created"] is False
    assert again.json["batch"]["id"] == home.batch_id
    assert len(vgen("list", "--json").json["batches"]) == 1
    assert "nothing was added" in vgen("submit", home.file).out


def test_again_makes_a_new_batch_and_solo_mode_names_the_next_command(home: Home, vgen: Vgen) -> None:
    outcome = vgen("submit", home.file, "--again")

    assert outcome.code == 0
    assert "vgen run" in outcome.out
    assert len(vgen("list", "--json").json["batches"]) == 2


def test_options_override_the_preset_and_lines_override_options(prompts: Path, vgen: Vgen) -> None:
    plan = vgen(
        *("submit", prompts, "--dry-run", "--json", "--seed", "3", "--size", "96x96", "--num-inference-steps", "2"),
        *("--label", "a=1", "--label", "b=2", "--priority", "5", "--negative-prompt", "rain"),
    ).json

    assert [job["spec"]["seed"] for job in plan["jobs"]] == [7, 3, 3]
    first = plan["jobs"][0]["spec"]
    assert (first["width"], first["height"], first["num_inference_steps"]) == (96, 96, 2)
    assert (first["labels"], first["priority"], first["negative_prompt"]) == ({"a": "1", "b": "2"}, 5, "rain")


def test_a_dry_run_stores_nothing(prompts: Path, vgen: Vgen, tmp_path: Path) -> None:
    outcome = vgen("--home", tmp_path / "unused", "submit", prompts, "--dry-run", "--seeds", "1-4")

    assert outcome.code == 0
    assert "needs preset tiny-wan" in outcome.out
    assert "random" in outcome.out
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--num-frames", "many"), "num_frames"),
        (("--label", "novalue"), "--label"),
        (("--codec", "gif"), "--codec"),
        (("--quality", "99"), "--quality"),
        (("--safety-policy", "maybe"), "--safety-policy"),
        (("--key", "k", "--again"), "--key and --again"),
        (("--preset", "nonesuch"), "nonesuch"),
        (("--nonesuch",), "--nonesuch"),
    ],
)
def test_wrong_options_end_with_2_and_name_the_option(
    prompts: Path, vgen: Vgen, arguments: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", "fresh")
    outcome = vgen("submit", prompts, *arguments)

    assert outcome.code == 2
    assert complaint in outcome.err
    assert "Traceback" not in outcome.err
    assert vgen("list", "--json").json["batches"] == []


def test_every_mistake_of_a_file_is_shown_with_its_line(tmp_path: Path, vgen: Vgen) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text('{"prompt": "a", "seed": -1}\n{"prompt": "b", "nonesuch": 1}\n', "utf-8")

    outcome = vgen("submit", file)

    assert outcome.code == 2
    assert f"{file}:1: seed" in outcome.err
    assert f"{file}:2: nonesuch" in outcome.err


def test_a_key_that_was_used_for_another_file_is_refused(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("something else\n", "utf-8")
    assert vgen("submit", home.file, "--key", "nightly").code == 0

    outcome = vgen("submit", other, "--key", "nightly")

    assert outcome.code == 2
    assert "nightly" in outcome.err


def test_a_cluster_without_its_broker_stores_all_the_same(
    home: Home, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a broker's address where nobody listens
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("VGEN_BROKER_URL", f"redis://:hidden@127.0.0.1:{port}/0")

    # When a file is submitted
    outcome = vgen("submit", home.file, "--again", "--gpu", "h200", "--json")

    # Then it is stored, and the notices name the broker and the GPU type that no worker has
    assert outcome.code == 0
    broker, *capacity = outcome.json["notices"]
    assert f"127.0.0.1:{port}" in broker
    *capacity, screening = capacity
    assert sorted(capacity) == [
        "3 jobs wait for a GPU type that no live worker has: h200",
        "3 jobs wait for a worker that screens prompts (vgen.cpu): none is alive",
    ]
    assert "no classifier (VGEN_SAFETY_CLASSIFIER is unset here; workers without one do not screen)" in screening
    assert "hidden" not in outcome.err + outcome.out


def test_run_is_refused_in_cluster_mode(prompts: Path, vgen: Vgen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")

    outcome = vgen("run", prompts)

    assert outcome.code == 2
    assert "vgen submit FILE --wait" in outcome.err


def test_an_input_image_is_stored_before_the_rows(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
    plan = vgen("submit", home.file, "--preset", "svd-xt", "--image", "start.png", "--dry-run", "--json")
    assert plan.code == 0, plan.err

    submitted = vgen("submit", home.file, "--preset", "svd-xt", "--image", "start.png", "--json")

    assert submitted.code == 0, submitted.err
    digest = plan.json["jobs"][0]["spec"]["image"]["sha256"]
    assert make_storage(home.settings).read_bytes(f"inputs/{digest}") == (tmp_path / "start.png").read_bytes()


def test_an_input_that_a_sweep_took_while_the_rows_were_written_is_put_again(
    home: Home, vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
    storage, submit = make_storage(home.settings), batches.submit

    def submit_and_sweep(session: Session, submission: Submission, **more: Any) -> batches.Submitted:
        stored = submit(session, submission, **more)
        storage.delete_all([item.ref.key for item in submission.inputs.values()])
        return stored

    monkeypatch.setattr(batches, "submit", submit_and_sweep)
    submitted = vgen("submit", home.file, "--preset", "svd-xt", "--image", "start.png", "--json")

    assert submitted.code == 0, submitted.err
    assert [item.size for item in storage.list("inputs/")] == [(tmp_path / "start.png").stat().st_size]


@pytest.mark.parametrize("policy", ["hold", "closed"])
def test_a_policy_by_name_without_a_classifier_is_refused(
    prompts: Path, vgen: Vgen, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", "fresh")

    for command in ("submit", "run"):
        outcome = vgen(command, prompts, "--safety-policy", policy)
        assert outcome.code == 2
        assert f"--safety-policy: '{policy}' is given, but no classifier is set" in outcome.err
    assert vgen("list", "--json").json["batches"] == []


def test_a_cluster_screens_under_a_policy_by_name_or_does_not_generate(
    home: Home, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")

    outcome = vgen("submit", home.file, "--safety-policy", "hold", "--json")

    batch_id = outcome.json["batch"]["id"]
    database = home.database()
    with database.reading() as session:
        assert batches.get(session, batch_id).options["must_screen"] is True
    database.close()
    assert "only workers that have one generate anything" in outcome.err


def test_the_default_policy_without_a_classifier_is_said_once(
    home: Home, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "prompts are not screened: safety policy closed has no classifier"
    outcome = vgen("submit", home.file, "--again", "--json")
    assert outcome.err.count(told) == 1
    assert [told in text for text in outcome.json["notices"]].count(True) == 1
    assert vgen("submit", home.file, "--dry-run").err == "", "nothing is stored"
    assert told not in vgen("submit", home.file, "--safety-policy", "open").err

    monkeypatch.setenv("VGEN_SAFETY_CLASSIFIER", "/models/safety.bin")
    assert told not in vgen("submit", home.file, "--again").err
