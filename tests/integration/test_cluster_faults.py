"""What a cluster survives: an emptied or restarted broker, a restarted database, killed workers and generators."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, running_cluster, wait_for
from tests.forked_cli import ForkedVgen
from tests.servers import redis_command

STEP_S = "0.5"
"""Time of one idle step: a clip takes two seconds, so that a fault falls into the middle of a batch."""


@pytest.fixture(scope="module")
def _module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "failpoints").touch()
    _write_dino(folder / "weights")
    told = {"VGEN_FAILPOINTS": f"@{folder}/failpoints", "VGEN_EVAL_WEIGHTS_DIR": f"{folder}/weights"}
    with running_cluster(folder, VGEN_IDLE_STEP_S=STEP_S, VGEN_PRESET="idle", **told) as running:
        running.start_worker()
        yield running


def _write_dino(folder: Path) -> None:
    """The weights of one small model family."""
    import torch  # noqa: PLC0415  # loading it takes seconds

    from tests.data.vbench_oracle import tiny_weights  # noqa: PLC0415

    folder.mkdir()
    name = "dino_vitbase16_pretrain.pth"
    torch.save(tiny_weights.weights(*tiny_weights.plain(full_size=False)[name]), folder / name)


@pytest.fixture
def cluster(_module_cluster: Cluster) -> Cluster:
    """The module's cluster with no batch of an earlier test unfinished."""
    assert _module_cluster.one("SELECT count(*) FROM batches WHERE active") == 0
    return _module_cluster


def submit(cluster: Cluster, name: str, jobs: int) -> ForkedVgen:
    """Start `vgen submit --wait` and return once a clip of the batch is being generated."""
    path = cluster.folder / f"{name}.txt"
    path.write_text("".join(f"{name} {number}\n" for number in range(jobs)))
    nowhere = Path(os.devnull)
    command = ("submit", "--wait", path)
    waiting = ForkedVgen(command, env=cluster.env, cwd=cluster.folder, stdout=nowhere, stderr=nowhere)
    wait_for(lambda: generating(cluster), f"a clip is generated\n{cluster.log}")
    return waiting


def generating(cluster: Cluster) -> list[tuple[str, int]]:
    query = "SELECT job_id, attempt FROM steps WHERE stage = 'generate' AND state = 'running' AND progress_step > 0"
    return [(job, attempt) for job, attempt in cluster.rows(query)]


def check_all_succeeded_once(cluster: Cluster, jobs: int) -> None:
    """Every job of the newest batch succeeded, with one recorded end and one video."""
    newest = "(SELECT id FROM batches ORDER BY created_at DESC LIMIT 1)"
    wait_for(
        lambda: cluster.one(f"SELECT count(*) FROM jobs WHERE batch_id = {newest} AND state = 'succeeded'") == jobs,
        "every job succeeds",
        60,
    )
    assert cluster.one(f"SELECT count(*) FROM jobs WHERE batch_id = {newest}") == jobs
    ends = f"""SELECT count(*) FROM stage_runs r JOIN jobs j ON j.id = r.job_id
        WHERE j.batch_id = {newest} AND r.stage = 'publish' AND r.outcome = 'done'"""
    videos = f"SELECT count(*) FROM artifacts a JOIN jobs j ON j.id = a.job_id WHERE j.batch_id = {newest}"
    assert cluster.one(ends) == jobs
    assert cluster.one(f"{videos} AND a.kind = 'video'") == jobs


def test_an_emptied_broker_loses_no_job(cluster: Cluster) -> None:
    waiting = submit(cluster, "flushed", 4)

    assert redis_command(cluster.redis.port, "FLUSHALL") == b"+OK"

    assert waiting.wait(80) == 0, cluster.log
    check_all_succeeded_once(cluster, 4)


def test_a_restarted_broker_loses_no_job(cluster: Cluster) -> None:
    waiting = submit(cluster, "restarted", 4)

    cluster.redis.restart()

    assert waiting.wait(80) == 0, cluster.log
    check_all_succeeded_once(cluster, 4)


def test_a_batch_can_be_submitted_while_the_broker_is_down(cluster: Cluster) -> None:
    cluster.redis.stop()
    try:
        path = cluster.folder / "no-broker.txt"
        path.write_text("stored all the same\n")
        done = cluster.vgen("submit", str(path))
    finally:
        cluster.redis.start()

    assert done.returncode == 0, done.stderr
    assert "cannot be reached" in done.stderr
    check_all_succeeded_once(cluster, 1)


def test_a_restarted_database_loses_no_job(cluster: Cluster) -> None:
    path = cluster.folder / "database.txt"
    path.write_text("one\ntwo\nthree\n")
    assert cluster.vgen("submit", str(path)).returncode == 0
    wait_for(lambda: generating(cluster), "a clip is generated")

    cluster.postgres.restart()

    check_all_succeeded_once(cluster, 3)


def test_nothing_is_stored_while_the_database_is_down(cluster: Cluster) -> None:
    before = cluster.one("SELECT count(*) FROM batches")
    cluster.postgres.stop()
    try:
        path = cluster.folder / "no-database.txt"
        path.write_text("not stored\n")
        done = cluster.vgen("submit", str(path))
    finally:
        cluster.postgres.start()

    assert done.returncode == 4
    assert "database" in done.stderr
    assert "Traceback" not in done.stderr
    assert cluster.one("SELECT count(*) FROM batches") == before


def test_a_killed_generator_is_replaced_and_the_clip_made_again(cluster: Cluster) -> None:
    waiting = submit(cluster, "crashed", 2)
    job, _ = generating(cluster)[0]

    for pid in cluster.generators():
        os.kill(pid, signal.SIGKILL)

    assert waiting.wait(80) == 0, cluster.log
    check_all_succeeded_once(cluster, 2)
    assert cluster.one(f"SELECT crashes FROM steps WHERE job_id = '{job}' AND stage = 'generate'") == 1


def test_a_killed_worker_is_started_again_and_its_clip_made_once(cluster: Cluster) -> None:
    waiting = submit(cluster, "killed", 2)
    job, attempt = generating(cluster)[0]
    gpu_worker = cluster.one("SELECT pid FROM workers WHERE gpu_type IS NOT NULL ORDER BY started_at DESC LIMIT 1")

    os.killpg(gpu_worker, signal.SIGKILL)

    assert waiting.wait(80) == 0, cluster.log
    check_all_succeeded_once(cluster, 2)
    lost = f"SELECT outcome FROM stage_runs WHERE job_id = '{job}' AND stage = 'generate' AND attempt = {attempt}"
    assert cluster.one(lost) == "lease_ended"


def test_a_drained_worker_keeps_where_its_clip_is_and_the_next_goes_on(cluster: Cluster) -> None:
    # Given a clip that takes longer than the grace of 10 s
    path = cluster.folder / "drained.jsonl"
    path.write_text('{"prompt": "long", "num_inference_steps": 40}\n')
    assert cluster.vgen("submit", str(path)).returncode == 0
    wait_for(lambda: generating(cluster), "a clip is generated")
    job, _ = generating(cluster)[0]

    # When its worker is told to stop
    assert cluster.stop_worker() == 0, cluster.log

    # Then the step is given back before the grace is over, which counts as no failure, and where it is is stored
    ended = f"SELECT outcome FROM stage_runs WHERE job_id = '{job}' AND stage = 'generate'"
    assert cluster.rows(ended) == [("released",)], cluster.log
    (step,) = cluster.rows(f"SELECT step FROM checkpoints WHERE job_id = '{job}' AND NOT final")[0]
    assert (
        cluster.one(f"SELECT errors + crashes + losses FROM steps WHERE job_id = '{job}' AND stage = 'generate'") == 0
    )

    # And the next worker goes on from there
    cluster.start_worker()
    check_all_succeeded_once(cluster, 1)
    output = cluster.one(f"SELECT output FROM steps WHERE job_id = '{job}' AND stage = 'generate'")
    assert output["facts"]["resumed_from_step"] == step
    assert output["facts"]["denoise_steps"] == 40 - step + 1
    assert cluster.one("SELECT count(*) FROM checkpoints") == 0


def test_scoring_survives_kill_nine_and_an_emptied_broker(cluster: Cluster) -> None:
    # Given a suite of which a worker is killed, with its pool, as it scores its first clip by a model
    suite = cluster.folder / "suite.json"
    entries = [{"prompt_en": f"view {n}", "dimension": ["subject_consistency", "imaging_quality"]} for n in range(9)]
    suite.write_text(json.dumps(entries))
    (cluster.folder / "failpoints").write_text(f"score_clip:models=killgroup!{cluster.folder}/killed")
    small = ("--width", "32", "--height", "32", "--num-frames", "3", "--num-inference-steps", "1")
    command = ("eval", "suite", str(suite), "--seeds", "1", "--metrics", "checks,vbench", *small)
    run_id = cluster.json(*command)["id"]
    wait_for((cluster.folder / "killed").exists, f"a worker is killed\n{cluster.log}")
    assert redis_command(cluster.redis.port, "FLUSHALL") == b"+OK"

    # When the command is given again, and waited for
    done = cluster.vgen(*command, "--wait", "--output", "scores.json", "--json")

    # Then it is the same run, complete: each clip has every score once, or the reason why not
    assert done.returncode == 0, done.stderr + cluster.log
    assert (json.loads(done.stdout)["id"], json.loads(done.stdout)["state"]) == (run_id, "complete")
    records = json.loads((cluster.folder / "scores.json").read_text("utf-8"))
    assert [record["entry"] for record in records] == list(range(9))
    for record in records:
        assert 0 < record["scores"]["vbench.subject_consistency"]["score"] <= 1
        assert "weights missing" in record["scores"]["vbench.imaging_quality"]["details"]["reason"]

    # And the kill cost one attempt of one step: nine clips in two slices
    steps = cluster.rows("SELECT family, state, attempt, losses, queue FROM score_steps ORDER BY family, first_seq")
    assert [(family, state, queue) for family, state, _, _, queue in steps] == [
        ("models", "done", "vgen.cpu"),
        ("models", "done", "vgen.cpu"),
    ]
    assert sum(losses for *_, losses, _ in steps) >= 1
    assert cluster.one("SELECT count(*) FROM scores WHERE metric = 'vbench.subject_consistency'") == 9

    # When the batch is scored once more, then what the same scorer knows is not computed again
    before = cluster.rows("SELECT * FROM scores ORDER BY job_id, metric")
    again = cluster.vgen("eval", "run", "latest", "--metrics", "vbench.subject_consistency")
    assert (again.returncode, again.stdout.count("vbench.subject_consistency\t0.")) == (0, 9), again.stderr
    assert cluster.rows("SELECT * FROM scores ORDER BY job_id, metric") == before
