"""What status, list, show and results say about batches in every state."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

import pytest

from cli.batches.follow import snapshot_of
from db.session import Database
from pipeline.settings import load_settings
from pipeline.states import JobState, Stage
from pipeline.work import StageResult
from tests.outputs import generated
from tests.unit.cli.conftest import Home, Vgen
from tests.unit.db.line import SHA, Line


def test_the_exit_code_of_a_batch_says_whether_all_succeeded(home: Home, vgen: Vgen) -> None:
    assert vgen("status", "--json").json["batch"]["exit_code"] is None
    for job_id in home.job_ids[:2]:
        home.succeed(job_id)
    home.end(home.job_ids[2], JobState.FAILED, error_code="out_of_memory", error="too big")

    view = vgen("status", home.batch_id[:12], "--json").json

    assert view["batch"]["exit_code"] == 3
    assert view["errors"] == {"out_of_memory": 1}
    assert [job["id"] for job in view["failed"]] == [home.job_ids[2]]
    watched = vgen("watch", home.batch_id)
    assert watched.code == 3
    assert "out_of_memory: too big" in watched.out


def test_watch_and_run_of_a_finished_batch_end_with_0_and_show_the_clips(home: Home, vgen: Vgen) -> None:
    for job_id in home.job_ids:
        home.succeed(job_id)

    watched = vgen("watch")
    ran = vgen("run", home.file)

    assert (watched.code, ran.code) == (0, 0)
    for outcome in (watched, ran):
        assert "weights of this preset are random" in outcome.out
        clips = [line.split("\t")[2] for line in outcome.out.splitlines() if line.startswith(f"{home.batch_id}-")]
        assert len(clips) == 3
        assert all(Path(clip).is_file() for clip in clips)
    assert "--again" in ran.err


def test_run_with_nothing_to_do_says_so(home: Home, vgen: Vgen) -> None:
    for job_id in home.job_ids:
        home.succeed(job_id)

    outcome = vgen("run")

    assert outcome.code == 0
    assert "nothing to do" in outcome.out


def test_results_give_urls_that_fetch_the_clips(home: Home, vgen: Vgen) -> None:
    data = home.succeed(home.job_ids[0])

    results = vgen("results", "--urls", "--json", "--state", "succeeded").json["results"]

    assert [result["job"]["id"] for result in results] == [home.job_ids[0]]
    with urlopen(results[0]["files"][0]["url"]) as answer:
        assert answer.read() == data


def test_download_names_files_by_line_seed_and_prompt_and_skips_what_is_there(
    home: Home, vgen: Vgen, tmp_path: Path
) -> None:
    # Given one finished clip of three
    data = home.succeed(home.job_ids[0])
    folder = tmp_path / "clips"

    # When it is downloaded, twice
    assert vgen("results", "--download", folder).code == 0
    clip = folder / "000001-7-a-red-fox.mp4"
    first = clip.stat()
    assert vgen("results", "--download", folder).code == 0

    # Then it is there, whole, once, and the manifest names it
    assert clip.read_bytes() == data
    assert clip.stat().st_mtime_ns == first.st_mtime_ns
    assert clip.stat().st_ino == first.st_ino
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    assert [(line["file"], line["job"]["id"]) for line in lines] == [(clip.name, home.job_ids[0])]
    assert sorted(path.name for path in folder.iterdir()) == [clip.name, "manifest.jsonl"]


def test_a_changed_file_is_replaced_and_a_corrupt_object_is_not_taken(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    data = home.succeed(home.job_ids[0])
    folder = tmp_path / "clips"
    vgen("results", "--download", folder)
    clip = folder / "000001-7-a-red-fox.mp4"
    clip.write_bytes(b"cut off")
    assert vgen("results", "--download", folder).code == 0
    assert clip.read_bytes() == data

    # When the store's own bytes have changed
    clip.unlink()
    stored = Path(vgen("results").rows[0][4])
    stored.write_bytes(b"x" * len(data))
    outcome = vgen("results", "--download", folder)

    assert outcome.code == 4
    assert "sha256" in outcome.err
    assert not clip.exists()
    assert [path.name for path in folder.iterdir()] == ["manifest.jsonl"]


def test_clips_of_one_line_and_seed_get_names_of_their_own(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("prompts:\n- prompt: a fox\n  seed: 5\n  sweep: {guidance_scale: [3, 5]}\n", "utf-8")
    submitted = vgen("submit", file, "--json")
    assert submitted.code == 0, submitted.err
    batch_id = submitted.json["batch"]["id"]
    for seq in range(2):
        home.succeed(f"{batch_id}-{seq:06d}")

    vgen("results", batch_id, "--download", tmp_path / "clips")

    names = sorted(path.name for path in (tmp_path / "clips").glob("*.mp4"))
    assert len(names) == 2
    assert all("-5-a-fox-v" in name for name in names)


@pytest.mark.parametrize("text", ["8d", "169h", "0", "-1", "soon", "", "1.5h"])
def test_expires_that_are_wrong_or_over_7_days_are_refused(home: Home, vgen: Vgen, text: str) -> None:
    outcome = vgen("results", "--urls", f"--expires={text}")

    assert outcome.code == 2
    assert "--expires" in outcome.err


@pytest.mark.parametrize("text", ["604800", "7d", "12h", "30m", "5s"])
def test_expires_up_to_7_days_are_taken(home: Home, vgen: Vgen, text: str) -> None:
    assert vgen("results", "--urls", "--expires", text).code == 0


def test_control_characters_of_a_prompt_do_not_reach_the_terminal(home: Home, vgen: Vgen, tmp_path: Path) -> None:
    file = tmp_path / "evil.jsonl"
    file.write_text(json.dumps({"prompt": "a\x1b[31m red\tfox\nwith lines"}) + "\n", "utf-8")
    submitted = vgen("submit", file)

    if submitted.code == 0:
        listed = vgen("list", "latest")
        assert "\x1b" not in listed.out
        assert len(listed.rows) == 1
        assert len(listed.rows[0]) == 6
    else:
        assert "\x1b" not in submitted.err


def test_show_tells_all_of_a_job(home: Home, vgen: Vgen) -> None:
    view = vgen("show", home.job_ids[0], "--json").json

    assert view["spec"]["seed"] == 7
    assert [step["stage"] for step in view["steps"]] == ["screen"]
    assert vgen("show", home.job_ids[0]).code == 0
    assert vgen("show", home.batch_id, "--json").json["batch"]["id"] == home.batch_id


def test_people_see_which_segment_of_how_many(vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a clip of three segments: the first is encoded while the second is generated
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"segments": ["a fox", "it runs", "it sleeps"], "preset": "idle", "seed": 7}), "utf-8")
    plan = vgen("submit", file, "--dry-run")
    assert "1 job of 3 segments" in plan.out
    batch_id = vgen("submit", file, "--json").json["batch"]["id"]
    database = Database(load_settings(home=tmp_path / "home").effective_database_url)
    line, job_id = Line(database), f"{batch_id}-000000"
    line.worker()
    line.finish(line.go_on(job_id, Stage.GENERATE), StageResult(generated(prompt="a quick fox")))
    line.admit()
    assert line.try_claim(job_id, Stage.ENCODE, segment=0)
    assert line.try_claim(job_id, Stage.GENERATE, segment=1)

    # Then each place where a clip's progress is shown says so
    status, shown = vgen("status"), vgen("show", job_id)
    for text in ("encode\tsegment 1 of 3", "generate\tsegment 2 of 3", "segments to generate\t2"):
        assert text in status.out
    for text in ("1 of 3 segments generated", "1\tdone\trunning\t5\ta quick fox", "2\trunning\t\t\tit runs"):
        assert text in shown.out
    assert "generate\tsegment 1 of 3\t1\tdone" in shown.out
    followed = snapshot_of(database, [batch_id]).running
    assert [(step.segment, step.segments, step.part) for step in followed] == [
        (0, 3, "segment 1 of 3"),
        (1, 3, "segment 2 of 3"),
    ]
    view = vgen("show", job_id, "--json").json
    assert [one["frames_sha256"] for one in view["segments"]] == [SHA, None, None]
    assert view["rolls"][0]["frames_sha256"] is None, "the clip's is known once all are generated"
    assert [entry["data"]["segment"] for entry in vgen("events", job_id, "--json").json["entries"][-1:]] == [0]
    database.close()


@pytest.mark.parametrize("arguments", [("status", "zz"), ("show", "zz-000000"), ("results", "zz"), ("cancel", "zz")])
def test_what_does_not_exist_ends_with_2(home: Home, vgen: Vgen, arguments: tuple[str, str]) -> None:
    outcome = vgen(*arguments)

    assert outcome.code == 2
    assert arguments[1] in outcome.err


def test_a_home_where_nothing_was_submitted_is_not_an_internal_error(vgen: Vgen, tmp_path: Path) -> None:
    outcome = vgen("--home", tmp_path / "none", "status")

    assert outcome.code == 2
    assert "nothing was submitted" in outcome.err
    assert not (tmp_path / "none").exists()


def test_an_unreachable_database_ends_with_4_and_hides_its_password(
    vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_DATABASE_URL", "postgresql+psycopg://someone:hidden@127.0.0.1:1/vgen")

    for verb in ("status", "list", "results"):
        outcome = vgen(verb)
        assert outcome.code == 4
        assert "hidden" not in outcome.err
        assert "Traceback" not in outcome.err
