"""The commands that people type in their first hour, and what is said where nothing is found."""

from __future__ import annotations

import io
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from sqlalchemy import delete

from cli.batches import follow, forecast
from cli.main import app
from cli.operate import init
from db.clips import batches
from db.models import ArtifactRow, Batch, Event
from pipeline.presets.from_folder import preset_text
from pipeline.settings import Settings, load_settings
from pipeline.settings.project import project_folder
from pipeline.states import JobState
from tests.unit.cli.conftest import Home, Vgen


def test_help_comes_by_h_and_alone_to_stdout(vgen: Vgen) -> None:
    for words in ((), ("models",), ("keys",), ("-h",), ("models", "list", "-h")):
        outcome = vgen(*words)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith("Usage: vgen")


@pytest.mark.parametrize("words", [("--home", "x", "status"), ("status", "--home", "x"), ("status", "--home=x")])
def test_the_home_may_stand_anywhere_and_is_named_where_nothing_is_found(
    vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = vgen(*words)
    assert outcome.code == 2
    assert str(tmp_path / "x") in outcome.err
    assert "--home: needs a folder" in vgen("status", "--home").err


def test_home_and_settings_are_found_upwards_and_paths_start_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "films" / "prompts"
    below.mkdir(parents=True)
    (tmp_path / "films" / "vgen.toml").write_text('preset = "idle"\nstorage = "clips"\n', "utf-8")
    monkeypatch.delenv("VGEN_HOME", raising=False)
    monkeypatch.delenv("VGEN_PRESET")
    monkeypatch.chdir(below)

    settings = load_settings()

    assert (project_folder(), settings.preset) == (tmp_path / "films", "idle")
    assert settings.home.absolute() == tmp_path / "films" / "vgen-home"
    assert settings.effective_storage == str(tmp_path / "films" / "clips")
    (below / "vgen.toml").write_text("", "utf-8")
    assert project_folder() == below


def test_what_another_user_put_above_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / "vgen.toml").write_text("", "utf-8")
    monkeypatch.chdir(below)
    monkeypatch.setattr("os.geteuid", lambda: (tmp_path / "vgen.toml").stat().st_uid + 1)
    assert project_folder() == below


def test_prompts_come_as_an_argument_or_by_standard_input(
    vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))

    def prompts_of(source: str, stdin: bytes = b"") -> list[str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        plan = vgen("submit", source, "--dry-run", "--json")
        return [job["spec"]["prompt"] for job in plan.json["jobs"]] if plan.code == 0 else [plan.err]

    assert prompts_of('a fox --seed 7, "quoted"') == ['a fox --seed 7, "quoted"']
    assert prompts_of("-", b"a fox --seed 7\na hen\n") == ["a fox", "a hen"]
    assert prompts_of("-", b'{"prompt": "a fox"}\n') == ["a fox"]
    for source, stdin, complaint in (("-", b" \n", "no prompt"), ("fox", b"", "one word"), ("a b.txt", b"", "a b.txt")):
        assert complaint in prompts_of(source, stdin)[0]
    assert vgen("submit", "a red fox", "--json").json["batch"]["name"] == "a-red-fox"


def test_init_writes_what_may_be_set_once(vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert vgen("init").code == 0
    written = (tmp_path / "vgen.toml").read_text("utf-8")
    again = vgen("init")
    assert (again.code, (tmp_path / "vgen.toml").read_text("utf-8")) == (2, written)
    assert "it stays as it is" in again.err

    # Every commented setting, taken as it stands, is one, and changes nothing
    values = tomllib.loads(re.sub(r"^# (?=\[|[a-z_0-9]+ = )", "", init.text(), flags=re.MULTILINE))
    assert values.keys() == Settings.model_fields.keys()
    monkeypatch.setenv("VGEN_TRUSTED_FOLDERS", ".")
    (tmp_path / "vgen.toml").write_text("", "utf-8")
    plain = load_settings()
    (tmp_path / "vgen.toml").write_text(re.sub(r"^# (?=\[|[a-z_0-9]+ = )", "", written, flags=re.MULTILINE), "utf-8")
    assert load_settings().model_dump(exclude={"trusted_folders"}) == plain.model_dump(exclude={"trusted_folders"})


def test_a_custom_id_stands_for_its_job_unless_several_have_it(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "named.jsonl"
    file.write_text('{"prompt": "a", "custom_id": "shot-1"}\n{"prompt": "b", "custom_id": "opening"}\n', "utf-8")
    batch_id = vgen("submit", file, "--json").json["batch"]["id"]

    for name, number in (("shot-1", 0), ("opening", 1)):
        assert vgen("show", name, "--json").json["job"]["id"] == f"{batch_id}-{number:06d}"
        assert vgen("events", name, "--json").json["job_id"] == f"{batch_id}-{number:06d}"
    assert vgen("cancel", "opening", "--json").json["changed"] == [f"{batch_id}-000001"]
    assert vgen("list", batch_id, "--state", "waiting", "--json").json["jobs"][0]["custom_id"] == "shot-1"

    vgen("submit", file, "--again")
    for command in (("show", "shot-1"), ("cancel", "shot-1"), ("rerun", "shot-1")):
        outcome = vgen(*command)
        assert (outcome.code, f"{batch_id}-000000" in outcome.err) == (2, True)
    missing = vgen("show", "closing")
    assert (missing.code, str(home.folder) in missing.err) == (2, True)


def test_a_batch_is_deleted_with_its_files_once_it_has_ended(home: Home, vgen: Vgen) -> None:
    kept = vgen("submit", home.file, "--again", "--json").json["batch"]["id"]
    home.succeed(home.job_ids[0])
    running = vgen("delete", home.batch_id, "--yes")
    assert (running.code, "vgen cancel" in running.err) == (2, True)
    vgen("cancel", home.batch_id)
    assert "--yes" in vgen("delete", home.batch_id).err

    deleted = vgen("delete", home.batch_id, "--yes", "--json").json

    assert (deleted["jobs"], deleted["files"]) == (3, 1)
    assert [batch["id"] for batch in vgen("list", "--json").json["batches"]] == [kept]
    assert not list(home.folder.glob("storage/media/*/*.mp4"))
    database = home.database()
    with database.reading() as session:
        assert session.query(Event).filter(Event.batch_id == home.batch_id).count() == 0
        assert session.query(Batch).count() == 1
        assert batches.counts(session, [kept])[kept][JobState.WAITING] == 3
    database.close()


def test_a_dry_run_is_a_summary_and_the_first_jobs(home: Home, vgen: Vgen) -> None:
    short, long = (vgen("submit", home.file, "--seeds", "1-40", "--dry-run", *more) for more in ((), ("--all",)))
    assert short.out.index("needs preset") < short.out.index("variant")
    assert "the first 10 of " in short.out
    assert len(long.out.splitlines()) > 80
    assert "--all: goes with --dry-run" in vgen("submit", home.file, "--all").err


def test_ids_presets_and_labels_are_completed(home: Home, vgen: Vgen) -> None:
    vgen("submit", home.file, "--again", "--label", "show=pilot")
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)

    def completed(command: str, parameter: str, incomplete: str) -> list[str]:
        found = next(item for item in group.commands[command].params if item.name == parameter)
        return [item.value for item in found.shell_complete(context, incomplete)]

    assert home.batch_id in completed("status", "batch", home.batch_id[:6])
    assert home.job_ids[1] in completed("show", "job", home.batch_id + "-")
    assert completed("submit", "preset", "wan2.1-t2v-1") == ["wan2.1-t2v-1.3b", "wan2.1-t2v-14b"][:2]
    assert completed("submit", "label", "sh") == ["show=pilot"]


@pytest.mark.parametrize(
    ("pipeline_class", "vae", "denoiser", "rules"),
    [
        ("WanPipeline", {"temperal_downsample": [False, True, True]}, {"patch_size": [1, 2, 2]}, (4, 1, 16)),
        (
            "CogVideoXPipeline",
            {"temporal_compression_ratio": 4, "block_out_channels": [1, 2, 3, 4]},
            {"patch_size": 2},
            (4, 1, 16),
        ),
        (
            "LTXPipeline",
            {"spatio_temporal_scaling": [True, True, True, False], "patch_size": 4, "patch_size_t": 1},
            {"patch_size": 1},
            (8, 1, 32),
        ),
        (
            "MochiPipeline",
            {"temporal_expansions": [1, 2, 3], "spatial_expansions": [2, 2, 2]},
            {"patch_size": 2},
            (6, 1, 16),
        ),
    ],
)
def test_a_folder_s_rules_are_those_of_its_vae_and_patch(
    tmp_path: Path, pipeline_class: str, vae: dict[str, Any], denoiser: dict[str, Any], rules: tuple[int, int, int]
) -> None:
    for part, content in (("vae", vae), ("transformer", denoiser)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline_class}), "utf-8")

    values = tomllib.loads(preset_text(tmp_path))

    assert (values["frames"]["multiple"], values["frames"]["offset"], values["size"]["multiple"]) == rules


@pytest.mark.parametrize(
    ("index", "complaint"), [(None, "is not there"), ('{"_class_name": "FluxPipeline"}', "videos")]
)
def test_a_folder_that_is_no_video_model_is_refused_and_no_preset_is_left(
    home: Home, vgen: Vgen, tmp_path: Path, index: str | None, complaint: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if index is not None:
        (folder / "model_index.json").write_text(index, "utf-8")
    outcome = vgen("models", "add", folder)
    assert (outcome.code, complaint in outcome.err, "Traceback" in outcome.err) == (2, True, False)
    assert not list(home.folder.glob("presets/*.toml"))


def test_a_line_that_is_added_changes_no_other_seed_and_only_it_is_made(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    # Given a file of which a clip is made and the others wait
    file = tmp_path / "shots.txt"
    file.write_text("a hen\na hen\na fox\n", "utf-8")
    first = vgen("submit", file, "--json").json["batch"]["id"]
    seeds = [job["seed"] for job in vgen("list", first, "--json").json["jobs"]]
    assert len(set(seeds)) == 3
    home.succeed(f"{first}-000000")

    # When a line is put at its beginning
    file.write_text("a new one\na hen\na hen\na fox\n", "utf-8")
    whole = vgen("submit", file, "--no-reuse", "--dry-run", "--json").json
    assert [job["spec"]["seed"] for job in whole["jobs"]][1:] == seeds
    plan = vgen("submit", file, "--dry-run", "--json").json
    assert [(job["line"], job["spec"]["prompt"]) for job in plan["jobs"]] == [(1, "a new one")]
    new = vgen("submit", file, "--json")

    # Then only that one is made, which is said, and once more there is nothing
    assert new.json["batch"]["total"] == 1
    assert new.json["reused"] == [{"batch_id": first, "jobs": 3}]
    assert f"3 of 4 jobs are in batch {first} already and are not made again" in new.err
    repeated = vgen("submit", file, "--reuse", "--json")
    assert (repeated.json["created"], repeated.json["batch"]["id"]) == (False, new.json["batch"]["id"])
    assert vgen("submit", file, "--again", "--json").json["batch"]["total"] == 4
    assert "--reuse goes with neither" in vgen("submit", file, "--reuse", "--again").err


def test_what_failed_or_is_gone_or_has_other_options_was_not_made(home: Home, vgen: Vgen) -> None:
    # Given of three jobs one that failed and one whose clip was removed with its batch's files
    home.end(home.job_ids[0], JobState.FAILED, error_code="internal", error="x")
    home.succeed(home.job_ids[1])
    database = home.database()
    with database.transaction() as session:
        session.execute(delete(ArtifactRow))
    database.close()
    home.file.write_text(home.file.read_text("utf-8") + "a new one\n", "utf-8")

    made = vgen("submit", home.file, "--dry-run", "--json").json
    assert [job["line"] for job in made["jobs"]] == [1, 2, 4]
    assert vgen("submit", home.file, "--quality", "30", "--dry-run", "--json").json["total"] == 4
    assert vgen("submit", home.file, "--num-inference-steps", "3", "--dry-run", "--json").json["total"] == 4


def test_prompts_without_a_file_are_made_again_unless_it_is_asked_for(
    vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(text: str, *options: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        document = vgen("submit", "-", *options, "--json").json
        assert isinstance(document, dict)
        return document

    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "fresh"))
    piped("a hen\n")
    again = piped("a hen\na fox\n")
    assert (again["batch"]["total"], again["reused"]) == (2, [])
    assert "are made again; the option 'reuse' makes only what is new" in " ".join(again["notices"])
    assert piped("a hen\na fox\na boat\n", "--reuse")["batch"]["total"] == 1


def test_a_run_that_starts_says_so_and_not_that_nobody_is_at_work(home: Home) -> None:
    database = home.database()
    snapshot = follow.snapshot_of(database, [home.batch_id])
    starting = forecast.News(database, home.settings, start_s=60.0).report(snapshot)
    watching = forecast.News(database, home.settings).report(snapshot)
    database.close()
    assert starting.waiting == ("starting the workers",)
    assert "no vgen process works in this home: `vgen run`" in watching.waiting[0]


def test_one_job_is_one_job_and_what_failed_is_told_how_to_mend(home: Home, vgen: Vgen) -> None:
    for job_id in home.job_ids[:2]:
        assert "1 job cancelled" in vgen("cancel", job_id).out
    home.end(home.job_ids[2], JobState.FAILED, error_code="internal", error="x")
    assert f"vgen retry {home.batch_id}" in vgen("watch", home.batch_id).out
    assert "1 job queued again" in vgen("retry", home.job_ids[2]).out


def test_downloads_of_two_batches_and_foreign_files_keep_apart(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    other = vgen("submit", home.file, "--again", "--json").json["batch"]["id"]
    data = [home.succeed(home.job_ids[0]), home.succeed(f"{other}-000000"), home.succeed(home.job_ids[1])]
    second = next(job for job in vgen("list", home.batch_id, "--json").json["jobs"] if job["id"] == home.job_ids[1])
    foreign = folder / f"000002-{second['seed']}-a-blue-boat.mp4"
    foreign.write_bytes(b"my own film")

    for batch_id in (home.batch_id, other, home.batch_id):
        assert vgen("results", batch_id, "--download", folder).code == 0

    contents = sorted(path.read_bytes() for path in folder.glob("*.mp4"))
    assert contents == sorted([*data, b"my own film"])
    assert foreign.read_bytes() == b"my own film"
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    assert {entry["job"]["id"] for entry in entries} == {*home.job_ids[:2], f"{other}-000000"}
