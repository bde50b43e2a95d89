"""Two GPU workers on one host and several presets: models are loaded about as often as there are presets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.cluster import VGEN, Cluster, running_cluster, wait_for
from tests.die_with_parent import dying_with_us

PRESETS = ("alpha.one", "beta", "gamma", "delta")
SMALL = {"width": 32, "height": 32, "num_frames": 1}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("placement")
    presets = folder / "presets"
    presets.mkdir()
    for name in PRESETS:
        (presets / f"{name}.toml").write_text('extends = "idle"\n')
    env = {
        "VGEN_PRESETS_DIR": str(presets),
        "VGEN_GPU_COUNT": "2",
        "VGEN_IDLE_STEP_S": "0.05",
        "VGEN_WORKER_SILENCE_S": "5",
    }
    with running_cluster(folder, **env) as running:
        running.start_worker(workers=4)
        yield running


def submit(
    cluster: Cluster, lines: list[dict[str, object]], *, wait: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    file = cluster.folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": "a", **SMALL, **line}) + "\n" for line in lines))
    return cluster.vgen("submit", *(["--wait"] if wait else []), "--again", str(file), **env)


def loads(cluster: Cluster) -> list[str]:
    return [preset for (preset,) in cluster.rows("SELECT data->>'preset' FROM events WHERE kind = 'model_loaded'")]


def test_a_worker_with_nothing_to_do_loads_nothing(cluster: Cluster) -> None:
    assert loads(cluster) == []
    assert cluster.rows("SELECT assigned_preset, loaded FROM workers WHERE gpu_type IS NOT NULL") == [(None, None)] * 2


def test_two_presets_of_fifty_jobs_on_two_workers_are_at_most_four_loads(cluster: Cluster) -> None:
    # Given two presets in turn, so that a worker that took what comes first would load a hundred times
    lines = [{"preset": PRESETS[number % 2], "num_inference_steps": 1} for number in range(100)]

    done = submit(cluster, lines)

    assert done.returncode == 0, done.stderr + cluster.log
    assert cluster.job_states() == {"succeeded": 100}
    assert set(loads(cluster)) == set(PRESETS[:2])
    assert len(loads(cluster)) <= 4
    # And each clip was made by a worker of its preset
    wrong = cluster.one(
        "SELECT count(*) FROM stage_runs r JOIN jobs j ON j.id = r.job_id "
        "WHERE r.stage = 'generate' AND r.queue <> 'vgen.gpu.cpu.' || (j.spec->>'preset')"
    )
    assert wrong == 0


def test_an_urgent_job_of_another_preset_gets_a_worker_at_its_next_clip(cluster: Cluster) -> None:
    # Given both workers at long clips of one preset, with many more in line
    submit(cluster, [{"preset": "gamma", "num_inference_steps": 40} for _ in range(40)], wait=False)
    running = "SELECT count(*) FROM steps WHERE stage = 'generate' AND state = 'running'"
    wait_for(lambda: cluster.one(running) == 2, f"both work\n{cluster.log}")

    submit(cluster, [{"preset": "delta", "priority": 9, "num_inference_steps": 1}], wait=False)

    # Then it is made while most of them still wait, and its worker took nothing in between but what it ran
    made = "SELECT worker, started_at FROM stage_runs WHERE queue = 'vgen.gpu.cpu.delta' AND stage = 'generate'"
    wait_for(lambda: cluster.rows(made), f"it is made\n{cluster.log}")
    assert cluster.one("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'in_flight')") > 10
    ((worker, started),) = cluster.rows(made)
    moved = cluster.one("SELECT min(at) FROM events WHERE kind = 'preset_assigned' AND data->>'preset' = 'delta'")
    between = f"worker = '{worker}' AND started_at >= {moved} AND started_at < {started}"
    assert cluster.one(f"SELECT count(*) FROM stage_runs WHERE {between}") <= 1
    (batch,) = cluster.rows("SELECT id FROM batches WHERE active ORDER BY id LIMIT 1")[0]
    assert cluster.vgen("cancel", batch).returncode == 0
    wait_for(lambda: cluster.one("SELECT count(*) FROM batches WHERE active") == 0, f"all end\n{cluster.log}")


def test_a_preset_that_nobody_can_load_fails_its_jobs_and_no_others(cluster: Cluster) -> None:
    # Given a preset that only the submitter has
    elsewhere = cluster.folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("broken", "gamma"):
        (elsewhere / f"{name}.toml").write_text('extends = "idle"\n')

    done = submit(cluster, [{"preset": "broken"}, {"preset": "gamma"}], VGEN_PRESETS_DIR=str(elsewhere))

    assert done.returncode == 3, done.stderr + cluster.log
    newest = "(SELECT id FROM batches ORDER BY created_at DESC LIMIT 1)"
    states = cluster.rows(f"SELECT state, error_code FROM jobs WHERE batch_id = {newest} ORDER BY seq")
    assert [state for state, _ in states] == ["failed", "succeeded"]
    assert states[0][1] == "preset_missing"
    assert cluster.one("SELECT count(DISTINCT data->>'worker') FROM events WHERE kind = 'preset_failed'") == 2


def test_a_killed_pool_child_is_no_reader_until_its_model_is_back(cluster: Cluster) -> None:
    # Given a worker that holds a preset
    assert submit(cluster, [{"preset": "beta"}]).returncode == 0
    (name,) = cluster.rows("SELECT name FROM workers WHERE loaded = 'beta' LIMIT 1")[0]
    before = len(loads(cluster))

    # When its generator dies while it is idle
    for pid in cluster.generators():
        os.kill(pid, signal.SIGKILL)

    # Then it is loaded again by itself, and said in the row
    wait_for(lambda: len(loads(cluster)) > before, f"it is loaded again\n{cluster.log}")
    wait_for(
        lambda: cluster.one(f"SELECT count(*) FROM workers WHERE name = '{name}' AND loaded = assigned_preset") == 1,
        "the worker says so",
    )


def test_the_folder_of_presets_is_read_again(cluster: Cluster) -> None:
    (Path(cluster.env["VGEN_PRESETS_DIR"]) / "late.toml").write_text('extends = "idle"\n')

    assert submit(cluster, [{"preset": "late"}]).returncode == 0, cluster.log
    assert "late" in loads(cluster)


def test_a_worker_that_has_stopped_to_listen_is_started_anew(cluster: Cluster) -> None:
    # Given an io worker that reads its queue no more, as after a reconnect that went wrong
    with Celery("stranger", broker=cluster.redis.url, set_as_current=False) as stranger:
        stranger.control.cancel_consumer("vgen.io")

    submit(cluster, [{"preset": "gamma"}], wait=False)

    restarted = "SELECT count(*) FROM events WHERE kind = 'worker_restarted' AND data->>'worker' LIKE 'io-%'"
    wait_for(lambda: cluster.one(restarted), f"it is noticed\n{cluster.log}")
    wait_for(lambda: cluster.one("SELECT count(*) FROM batches WHERE active") == 0, f"all end\n{cluster.log}")
    assert cluster.one("SELECT state FROM jobs ORDER BY created_at DESC LIMIT 1") == "succeeded"


def test_a_gpu_on_which_every_job_crashes_drains_itself_and_fails_none(cluster: Cluster) -> None:
    # Given a third GPU worker whose generator dies in every clip
    broken = {**cluster.env, "VGEN_FAILPOINTS": "denoise_step=kill", "VGEN_GPU_COUNT": "1"}
    with (cluster.folder / "worker.log").open("ab") as log:
        bad = subprocess.Popen(
            dying_with_us([*VGEN, "worker", "--no-cpu", "--no-io"], signal.SIGTERM),
            env=broken,
            cwd=cluster.folder,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: cluster.one("SELECT count(*) FROM workers WHERE gpu_type IS NOT NULL") == 3, "it reports")

        # When there is work for all three
        done = submit(cluster, [{"preset": "gamma", "num_inference_steps": 60} for _ in range(12)])

        # Then it takes no more after three different jobs, says why, and every job succeeds elsewhere
        assert done.returncode == 0, done.stderr + cluster.log
        ((name, reason),) = cluster.rows("SELECT name, drain_reason FROM workers WHERE drain_reason IS NOT NULL")
        assert f"-{bad.pid}@" in name
        assert "3 different jobs" in reason
        assert cluster.one("SELECT count(DISTINCT job_id) FROM stage_runs WHERE error_code = 'generator_crashed'") == 3
        assert "3 different jobs" in cluster.vgen("workers").stdout
    finally:
        bad.terminate()
        bad.wait(60)


def test_a_poison_batch_fails_and_drains_no_worker(cluster: Cluster) -> None:
    # Given a GPU worker whose generator dies in clips of one seed, and of no other
    poisoned = {**cluster.env, "VGEN_FAILPOINTS": "denoise_step:666=kill", "VGEN_GPU_COUNT": "1", "VGEN_GPU_TYPE": "p1"}
    with (cluster.folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            dying_with_us([*VGEN, "worker", "--no-cpu", "--no-io"], signal.SIGTERM),
            env=poisoned,
            cwd=cluster.folder,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: cluster.one("SELECT count(*) FROM workers WHERE gpu_type = 'p1'") == 1, "it reports")

        # When a batch of nothing else reaches it
        done = submit(cluster, [{"preset": "gamma", "seed": 666, "gpu": "p1"} for _ in range(4)])

        # Then its jobs fail, the worker stays, and makes the next clip
        assert done.returncode == 3, done.stderr + cluster.log
        crashed = "SELECT count(DISTINCT job_id) FROM stage_runs WHERE error_code = 'generator_crashed' AND worker LIKE"
        assert cluster.one(f"{crashed} '%{worker.pid}@%'") == 4
        assert cluster.one("SELECT count(*) FROM workers WHERE gpu_type = 'p1' AND drain_reason IS NULL") == 1
        assert submit(cluster, [{"preset": "gamma", "seed": 1, "gpu": "p1"}]).returncode == 0, cluster.log
    finally:
        worker.terminate()
        worker.wait(60)
