"""A cluster of real processes: submit, work, fetch by URL, drain."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.beat import PersistentScheduler

from pipeline.settings import load_settings
from tasks.app import make_app
from tasks.upkeep.schedule import beat_schedule
from tests import forked_cli
from tests.cluster import PATIENCE_S, VGEN, Cluster, wait_for
from tests.compose import SERVICES
from tests.die_with_parent import dying_with_us
from tests.end_to_end.flower import get, running_flower
from tests.end_to_end.reference_pipeline import decoded_sha256, frames_by_hand
from tests.line_helpers import write_jobs
from tests.servers import redis_command

SMALL = {"num_frames": 9, "width": 64, "height": 48, "num_inference_steps": 3}
CALLS = [
    {"prompt": "a red kite", "seed": 11, "guidance_scale": 5.0, **SMALL},
    {"prompt": "naïve 雨 🐈", "seed": 2**31, "guidance_scale": 1.0, "negative_prompt": "blur", **SMALL},
]


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        return bytes(response.read())


def recorded_frames(sidecars: Iterable[bytes]) -> dict[int, str]:
    """sha256 of the raw frames by seed."""
    read = [json.loads(text) for text in sidecars]
    return {sidecar["seed"]: sidecar["frames"]["sha256"] for sidecar in read}


def test_a_submitted_file_becomes_the_clips_of_its_pipeline_that_anybody_can_fetch(cluster: Cluster) -> None:
    # Given a running cluster and a file of two prompts with a real (tiny) model
    prompts = write_jobs(cluster.folder / "prompts.jsonl", CALLS)
    lossless = (str(prompts), "--preset", "tiny-wan", "--codec", "libx264rgb", "--quality", "0")

    # When it is submitted
    done = cluster.vgen("submit", "--wait", *lossless)

    # Then it ends with success, and the URLs give the bytes that the rows promise
    assert done.returncode == 0, done.stderr + cluster.log
    found = cluster.json("results", "latest", "--urls")
    assert found["batch"]["total"] == sum(found["batch"]["counts"].values()) == 2
    assert found["batch"]["counts"]["succeeded"] == 2
    sidecars, decoded = [], []
    for result in found["results"]:
        for file in result["files"]:
            data = fetch(file["url"])
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (file["sha256"], file["size"])
            if file["kind"] == "sidecar":
                sidecars.append(data)
            elif file["kind"] == "video":
                video = cluster.folder / "fetched.mp4"
                video.write_bytes(data)
                decoded.append(decoded_sha256(video))

    # And the frames are those of the pipeline by hand, and the lossless video holds exactly those
    cache = Path(cluster.env["VGEN_HOME"]) / "cache"
    by_hand = frames_by_hand(cache / "models" / "tiny-wan-v1", CALLS)
    assert recorded_frames(sidecars) == {call["seed"]: digest for call, digest in zip(CALLS, by_hand, strict=True)}
    assert decoded == by_hand
    assert len(set(by_hand)) == 2

    # And a solo run of the same file on this machine makes the same
    solo_env = {
        name: value
        for name, value in cluster.env.items()
        if not name.startswith(("VGEN_DATABASE", "VGEN_BROKER", "VGEN_STORAGE", "VGEN_S3"))
    }
    home = cluster.folder / "solo-home"
    solo_env |= {"VGEN_HOME": str(home), "VGEN_CACHE_DIR": str(cache)}
    solo = forked_cli.run(["run", *lossless], env=solo_env, cwd=cluster.folder, timeout=PATIENCE_S)
    assert solo.returncode == 0, solo.stderr
    assert recorded_frames(path.read_bytes() for path in (home / "storage").rglob("*.json")) == recorded_frames(
        sidecars
    )


def test_while_a_clip_is_made_the_prompt_of_the_next_one_is_encoded(cluster: Cluster) -> None:
    # Given two clips, each long enough for a look at the rows meanwhile
    calls = [{"prompt": f"read ahead {n}", "seed": n, **SMALL, "num_inference_steps": 400} for n in range(2)]
    prompts = write_jobs(cluster.folder / "ahead.jsonl", calls)

    done = cluster.vgen("submit", "--wait", str(prompts), "--preset", "tiny-wan")

    # Then the one that was made first found its prompt new, and the other one's was known
    assert done.returncode == 0, done.stderr + cluster.log
    mine = "stage = 'generate' AND job_id IN (SELECT id FROM jobs WHERE spec->>'prompt' LIKE 'read ahead %')"
    known = cluster.rows(f"SELECT output->'facts'->>'prompt_known' FROM steps WHERE {mine} ORDER BY finished_at")
    assert known == [("false",), ("true",)]


def test_a_finished_batch_leaves_nothing_in_the_broker(cluster: Cluster) -> None:
    prompts = cluster.folder / "idle.txt"
    prompts.write_text("a\nb\nc\n")

    done = cluster.vgen("submit", "--wait", str(prompts), "--preset", "idle")

    assert done.returncode == 0, done.stderr
    with redis.Redis.from_url(cluster.redis.url) as client:
        wait_for(lambda: not client.hlen("unacked"), "every message is acknowledged")
        queues = [name for name in client.keys("*vgen.*") if client.type(name) == b"list"]
        assert [client.llen(name) for name in queues] == [0] * len(queues)


def test_a_clip_that_the_gate_rejects_is_made_again_and_the_accepted_roll_published(cluster: Cluster) -> None:
    # Given a seed of which the second roll keeps the rule, and one whose clip keeps it at once
    prompts = cluster.folder / "gate.jsonl"
    prompts.write_text('{"prompt": "a", "seeds": "4,10"}\n')
    gate = ("--score", "checks", "--gate", "checks.flicker<=0.075", "--gate", "checks.black", "--reroll", "1")

    done = cluster.vgen("submit", "--wait", str(prompts), "--preset", "idle", *gate)

    assert done.returncode == 0, done.stderr + cluster.log
    found = cluster.json("results", "latest", "--urls")
    assert [(result["job"]["state"], result["job"]["roll"]) for result in found["results"]] == [
        ("succeeded", 2),
        ("succeeded", 1),
    ]
    for result in found["results"]:
        (sidecar,) = (json.loads(fetch(file["url"])) for file in result["files"] if file["kind"] == "sidecar")
        assert (sidecar["roll"], sidecar["seed"]) == (result["job"]["roll"], result["job"]["seed"])
        assert sidecar["scoring"]["scores"]["checks.flicker"]["score"] == result["scores"]["checks.flicker"] <= 0.075


def test_nights_of_the_same_model_pass_and_one_of_a_worse_one_is_caught(cluster: Cluster) -> None:
    # Given a suite of six prompts, and a night of a real (tiny) model: there is nothing to compare it with
    suite = cluster.folder / "nightly.json"
    suite.write_text(json.dumps([{"prompt_en": f"view {n}", "dimension": ["temporal_flickering"]} for n in range(6)]))
    metric = "vbench.temporal_flickering"
    command = ("eval", "nightly", str(suite), "--metrics", metric, "--margin", f"{metric}=0.05")
    tiny = ("--preset", "tiny-wan", "--seeds", "1", "--num-frames", "5", "--num-inference-steps", "2")
    first = cluster.vgen(*command, *tiny, "--repeat-seeds", "2", "--json")
    assert first.returncode == 3, first.stderr + cluster.log
    begun = json.loads(first.stdout)
    assert (begun["state"], begun["summary"]["verdict"]["state"]) == ("complete", "no_calibration")

    # When the next night comes, then nothing has changed
    second = cluster.vgen(*command, *tiny, "--json")
    assert second.returncode == 0, second.stderr + cluster.log
    verdict = json.loads(second.stdout)["summary"]["verdict"]
    assert (verdict["state"], verdict["baseline"]) == ("identical", begun["id"])

    # When another model takes its place, whose frames are noise, then that is caught, repeated and reported
    worse = ("--preset", "idle", "--seeds", "1", "--baseline", begun["id"], "--repeat-seeds", "2")
    third = cluster.vgen(*command, *worse)
    assert third.returncode == 3, third.stderr + cluster.log
    verdict = cluster.json("eval", "runs")["runs"][1]["summary"]["verdict"]
    assert (verdict["state"], verdict["passed"]) == ("regressed", False)
    assert verdict["baseline"].split(" + ")[0] == begun["id"]
    assert verdict["advice"] == "alarm: it repeats with a second seed set"
    (page,) = (fetch(line) for line in third.stdout.splitlines() if "/report.html" in line)
    assert b"regressed" in page
    assert page.count(b"<video") >= 2


@contextlib.contextmanager
def beat_that_was_away(cluster: Cluster) -> Iterator[None]:
    """Beat by the compose file's command, with a schedule file that was last written two days ago."""
    for old in cluster.folder.glob("schedule*"):
        old.unlink()
    app = make_app()
    app.conf.beat_schedule = beat_schedule(load_settings(nightly={"crontab": "30 1 * * *"}))
    scheduler = PersistentScheduler(app, schedule_filename=str(cluster.folder / "schedule"))
    for entry in scheduler.schedule.values():
        entry.last_run_at -= timedelta(days=2)
    scheduler.close()
    program, *command = (str(word) for word in SERVICES["beat"]["command"])
    assert program == "vgen"
    command[command.index("--schedule") + 1] = str(cluster.folder / "schedule")
    with (cluster.folder / "beat.log").open("ab") as log:
        beat = subprocess.Popen(
            dying_with_us([*VGEN, *command], signal.SIGTERM),
            env=cluster.env,
            cwd=cluster.folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield
        assert beat.poll() is None, (cluster.folder / "beat.log").read_text("utf-8")
    finally:
        beat.terminate()
        beat.wait(30)


def test_a_night_begins_is_made_scored_and_judged_with_nobody_there(cluster: Cluster) -> None:
    def nights() -> list[tuple[str, bool]]:
        """State, and whether the verdict is there, of each night that beat began."""
        mine = """metrics = '["checks.black"]'"""
        return [tuple(row) for row in cluster.rows(f"SELECT state, summary ? 'verdict' FROM eval_runs WHERE {mine}")]

    # When beat comes up, having missed a night, then the night begins and comes to its end
    with beat_that_was_away(cluster):
        wait_for(lambda: [state for state, _ in nights()] == ["complete"], f"the night is complete\n{cluster.log}")

    # And when it comes up again on the same night, then there is no second one, and the verdict is written
    with beat_that_was_away(cluster):
        wait_for(lambda: nights() == [("complete", True)], f"it is judged, and no other begins\n{cluster.log}")


def test_a_job_that_cannot_run_costs_the_others_nothing(cluster: Cluster) -> None:
    # Given a preset whose weights are not on this machine, between two jobs that can run
    prompts = cluster.folder / "mixed.jsonl"
    prompts.write_text(
        '{"prompt": "a", "preset": "idle"}\n'
        '{"prompt": "b", "preset": "wan2.1-t2v-1.3b"}\n'
        '{"prompt": "c", "preset": "idle"}\n'
    )

    done = cluster.vgen("submit", "--wait", str(prompts))

    found = cluster.json("results", "latest")
    assert done.returncode == 3, done.stderr + cluster.log
    assert [result["job"]["state"] for result in found["results"]] == ["succeeded", "failed", "succeeded"]
    assert found["results"][1]["job"]["error_code"]


def test_a_message_for_a_finished_or_unknown_job_changes_nothing(cluster: Cluster) -> None:
    # Given a finished batch
    prompts = cluster.folder / "twice.txt"
    prompts.write_text("once\n")
    assert cluster.vgen("submit", "--wait", str(prompts), "--preset", "idle").returncode == 0
    job = cluster.one("SELECT id FROM jobs ORDER BY created_at DESC LIMIT 1")
    tables = [f"SELECT * FROM {name} ORDER BY 1, 2" for name in ("jobs", "steps", "stage_runs", "artifacts", "events")]
    before = [cluster.rows(query) for query in tables]

    # When its messages, one for a job that never was, and garbage arrive
    with redis.Redis.from_url(cluster.redis.url) as client:
        client.lpush("vgen.cpu", b"this is no message")
    with Celery("stranger", broker=cluster.redis.url, set_as_current=False) as stranger:
        for known in (job, "no-such-job"):
            stranger.send_task("vgen.generate", args=(known, 0), queue="vgen.gpu.cpu")
            stranger.send_task("vgen.publish", args=(known, 0), queue="vgen.io")
        stranger.send_task("vgen.publish", args=(1, {"two": 3}, None), queue="vgen.io")
    with redis.Redis.from_url(cluster.redis.url) as client:
        wait_for(lambda: not any(client.llen(q) for q in ("vgen.cpu", "vgen.io", "vgen.gpu.cpu")), "they are taken")
        wait_for(lambda: not client.hlen("unacked"), "they are acknowledged")

    # Then no row has changed, and the workers go on working
    assert [cluster.rows(query) for query in tables] == before
    prompts.write_text("after\n")
    assert cluster.vgen("submit", "--wait", str(prompts), "--preset", "idle").returncode == 0, cluster.log


@pytest.fixture(scope="class")
def flower(cluster: Cluster) -> Iterator[str]:
    with running_flower(cluster) as url:
        yield url


class TestFlower:
    """Flower over the working cluster: behind a password, and without a prompt in sight."""

    @pytest.mark.parametrize("login", [None, "watcher:wrong"])
    @pytest.mark.parametrize("page", ["/", "/api/tasks", "/api/workers"])
    def test_nobody_looks_without_the_password(self, flower: str, page: str, login: str | None) -> None:
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(flower + page, login)
        with refused.value:
            assert refused.value.code == 401

    def test_it_shows_the_tasks_and_workers_of_a_batch_but_no_prompt(self, cluster: Cluster, flower: str) -> None:
        # Given a batch that has run under Flower's eyes
        wait_for(lambda: json.loads(get(flower + "/api/workers?refresh=1")), "Flower sees workers")
        prompts = cluster.folder / "flower.txt"
        prompts.write_text("a very secret lighthouse\n")
        assert cluster.vgen("submit", "--wait", str(prompts), "--preset", "idle").returncode == 0, cluster.log
        job = cluster.one("SELECT id FROM jobs ORDER BY created_at DESC LIMIT 1")

        # When its API is asked
        stages = {f"vgen.{stage}" for stage in ("screen", "generate", "encode", "publish")}

        def shown() -> set[str]:
            tasks = json.loads(get(flower + "/api/tasks")).values()
            return {task["name"] for task in tasks if task["state"] == "SUCCESS"}

        wait_for(lambda: shown() >= stages, "the four tasks of a job without enhancement are shown as succeeded")

        # Then the tasks carry the job's id and not its prompt
        listing = get(flower + "/api/tasks").decode()
        assert job in listing
        assert "secret lighthouse" not in listing
        assert len(json.loads(get(flower + "/api/workers"))) == 3

        # And the page of each links to its root, the job, and is the one that `vgen show` names
        shown_job = json.loads(cluster.vgen("show", job, "--json").stdout)
        for attempt in shown_job["attempts"]:
            assert f'href="/task/{job}"' in get(f"{flower}/task/{attempt['task']}").decode()


def test_sigterm_drains_and_leaves_no_process(cluster: Cluster) -> None:
    # Given a worker whose generator runs
    assert cluster.one("SELECT count(*) FROM workers") == 3
    assert cluster.generators()

    # When it is told to stop
    code = cluster.stop_worker()

    # Then it has signed off, and no child is left
    assert code == 0
    assert cluster.rows("SELECT name FROM workers") == []
    assert cluster.processes() == {}
    assert redis_command(cluster.redis.port, "PING") == b"+PONG"
