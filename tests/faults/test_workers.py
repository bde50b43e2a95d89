"""Processes that die, stop or hang: every job ends once, with the frames of an undisturbed run."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.faults.fault_cluster import World, until

LONG = 60
"""Steps of a clip that is to be hit while it denoises: 3 s."""


def outcome(world: World, job: str, attempt: int, stage: str = "generate") -> str | None:
    found = world.rows(
        f"SELECT outcome FROM stage_runs WHERE job_id = '{job}' AND stage = '{stage}' AND attempt = {attempt}"
    )
    return found[0][0] if found else None


def counted(world: World, job: str, column: str, stage: str = "generate") -> int:
    return int(world.one(f"SELECT {column} FROM steps WHERE job_id = '{job}' AND stage = '{stage}'"))


@pytest.mark.slow_faults
def test_a_worker_killed_in_a_step_loses_its_lease_and_another_makes_the_clip(world: World) -> None:
    batch_id = world.clips(2, steps=LONG)
    job, attempt, host = world.wait_denoising(batch_id)

    for pid in host.parents("gpu0"):
        os.killpg(pid, signal.SIGKILL)

    world.wait_ended(batch_id)
    assert outcome(world, job, attempt) == "lease_ended"
    assert counted(world, job, "crashes") == 0  # it had made progress: the host was lost, the job is not to blame


def test_a_long_clip_goes_on_at_another_worker_from_the_segment_that_a_killed_one_had(world: World) -> None:
    # Given a clip of four segments, the second of which is being made
    batch_id = world.submit([{"prompt": "long", "segments": 4, "num_inference_steps": 40}])
    at_work = f"SELECT 1 FROM steps WHERE batch_id = '{batch_id}' AND segment = 1 AND progress_step > 2"
    until(lambda: world.rows(at_work), "the second segment is made")
    _, _, host = world.wait_denoising(batch_id)

    # When its worker is killed
    for pid in host.parents("gpu0"):
        os.killpg(pid, signal.SIGKILL)

    # Then nothing of the first is made again; the oracle compares every segment's frames
    world.wait_done(batch_id)
    attempts = f"""SELECT segment, attempt FROM steps
        WHERE batch_id = '{batch_id}' AND stage = 'generate' ORDER BY segment"""
    assert world.rows(attempts) == [(0, 1), (1, 2), (2, 1), (3, 1)]


@pytest.mark.slow_faults  # frames are given up only half a minute after their host's last sign of life
def test_a_host_that_dies_between_generate_and_encode_has_its_frames_made_again(world: World) -> None:
    # Given a host that dies as soon as it has recorded a clip's frames and before anybody may encode them
    victim = world.hosts["a"]
    batch_id = world.clips(4, steps=LONG)
    world.wait_denoising(batch_id)
    victim.fail("before_work:encode=sleep:100;after_claim:encode=sleep:100")
    recorded = f"""SELECT count(*) FROM steps g JOIN steps e ON e.job_id = g.job_id AND e.stage = 'encode'
        WHERE g.batch_id = '{batch_id}' AND g.stage = 'generate' AND g.state = 'done' AND e.state <> 'done'
        AND g.output::text LIKE '%{victim.home}%'"""
    until(lambda: world.one(recorded), "frames wait on the host")
    victim.kill()

    # Then other hosts make them again, and the step is rewound and not failed
    world.wait_ended(batch_id)
    assert world.one(f"SELECT count(*) FROM events WHERE batch_id = '{batch_id}' AND kind = 'rewound'") >= 1


def test_a_stopped_worker_that_wakes_after_its_lease_changes_nothing(world: World) -> None:
    batch_id = world.clips(5, steps=LONG)
    until(lambda: len(world.denoising(batch_id)) == 2, "both hosts work")
    job, attempt, host = world.wait_denoising(batch_id)

    # Whoever finds the lease over first dies before it ends it
    mark = world.folder / "reconciler-died"
    for other in world.hosts.values():
        other.fail(f"lease_ending=exit!{mark}")
    host.signal(signal.SIGSTOP)
    until(lambda: outcome(world, job, attempt) == "lease_ended", "the lease ends")
    assert mark.exists()
    until(lambda: counted(world, job, "attempt") > attempt, "another attempt begins")
    host.signal(signal.SIGCONT)

    world.wait_ended(batch_id)
    assert outcome(world, job, attempt) == "lease_ended"
    assert counted(world, job, "attempt") > attempt


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("term", marks=pytest.mark.slow_faults),
        pytest.param("term_then_kill", marks=pytest.mark.slow_faults),
        pytest.param("quit", marks=pytest.mark.slow_faults),
        pytest.param("term_to_all", marks=pytest.mark.slow_faults),
    ],
)
def test_a_worker_told_to_stop_gives_its_clip_back_and_fails_nothing(world: World, how: str) -> None:
    batch_id = world.clips(5, steps=LONG)
    until(lambda: len(world.denoising(batch_id)) == 2, "both hosts work")
    job, _, host = world.wait_denoising(batch_id)
    assert host.process is not None

    if how == "quit":
        for pid in host.parents():
            os.kill(pid, signal.SIGQUIT)
    elif how == "term_to_all":
        host.signal(signal.SIGTERM)
        host.process.wait(60)
    else:
        host.process.send_signal(signal.SIGTERM)
        if how == "term_then_kill":
            time.sleep(0.5)
            host.kill()
        else:
            assert host.stop() == 0
            assert host.processes() == {}

    world.wait_ended(batch_id)
    assert counted(world, job, "errors") == 0
    assert set(dict(world.rows(f"SELECT id, state FROM jobs WHERE batch_id = '{batch_id}'")).values()) == {"succeeded"}


@pytest.mark.slow_faults
def test_a_generator_that_hangs_is_killed_after_the_step_deadline(world: World) -> None:
    spare = world.hosts["b"]
    hung = world.hosts["a"]
    for host in (spare, hung):
        host.stop()
    world.start(hung, VGEN_WORKER_STEP_DEADLINE_S="2")
    hung.fail(f"denoise_step:7=sleep:1000!{hung.folder / 'hung-once'}")

    batch_id = world.submit([{"prompt": "hangs", "seed": 7}])
    world.wait_ended(batch_id)

    errors = [row[0] for row in world.rows("SELECT error_code FROM stage_runs WHERE error_code = 'generator_hung'")]
    assert errors == ["generator_hung"]
    hung.stop()


def test_a_job_that_kills_its_generator_every_time_is_quarantined_and_costs_the_others_nothing(world: World) -> None:
    for host in world.hosts.values():
        host.fail("denoise_step:666=kill")

    batch_id = world.submit([{"prompt": "poison", "seed": 666}, {"prompt": "one"}, {"prompt": "two"}])

    world.wait_ended(batch_id)
    states = dict(world.rows(f"SELECT seq, state FROM jobs WHERE batch_id = '{batch_id}'"))
    assert sorted(states.values()) == ["failed", "succeeded", "succeeded"]
    query = f"SELECT count(*) FROM stage_runs r JOIN jobs j ON j.id = r.job_id WHERE j.batch_id = '{batch_id}'"
    # Two are enough on a worker that succeeded with another job in between, three are wherever they happen.
    assert world.one(f"{query} AND j.state = 'failed' AND r.stage = 'generate'") in (2, 3)
    assert world.one(f"SELECT error_code FROM jobs WHERE batch_id = '{batch_id}' AND state = 'failed'") == (
        "generator_crashed"
    )


@pytest.mark.slow_faults
def test_a_job_that_kills_its_whole_worker_every_time_is_quarantined(world: World) -> None:
    for host in world.hosts.values():
        host.fail("denoise_step:667=killgroup@1")

    batch_id = world.submit([{"prompt": "poison", "seed": 667}, {"prompt": "one"}, {"prompt": "two"}])

    world.wait_ended(batch_id, patience_s=115)
    states = dict(world.rows(f"SELECT seq, state FROM jobs WHERE batch_id = '{batch_id}'"))
    assert sorted(states.values()) == ["failed", "succeeded", "succeeded"]


def test_out_of_memory_once_is_tried_again_and_always_fails_the_job(world: World) -> None:
    once = world.folder / "oom-once"
    for host in world.hosts.values():
        host.fail(f"before_work:generate=raise:OutOfMemoryError!{once}")
    batch_id = world.clips(1)
    world.wait_ended(batch_id)
    assert world.one(f"SELECT state FROM jobs WHERE batch_id = '{batch_id}'") == "succeeded"
    assert once.exists()

    for host in world.hosts.values():
        host.fail("before_work:generate=raise:OutOfMemoryError")
    batch_id = world.clips(1)
    world.wait_ended(batch_id)
    assert world.rows(f"SELECT state, error_code FROM jobs WHERE batch_id = '{batch_id}'") == [
        ("failed", "out_of_memory")
    ]


@pytest.mark.parametrize(
    "point", [pytest.param("frames_reserve", marks=pytest.mark.slow_faults), "encode_write", "frames_write"]
)
def test_a_full_disk_is_waited_for(world: World, point: str) -> None:
    for host in world.hosts.values():
        host.fail(f"{point}=enospc")
    batch_id = world.clips(1)
    said = f"""SELECT count(*) FROM stage_runs r JOIN jobs j ON j.id = r.job_id
        WHERE j.batch_id = '{batch_id}' AND r.error_code = 'disk_full'"""
    until(lambda: world.one(said), "the full disk is told")

    for host in world.hosts.values():
        host.fail("")

    world.wait_ended(batch_id)
    assert world.one(f"SELECT state FROM jobs WHERE batch_id = '{batch_id}'") == "succeeded"


@pytest.mark.parametrize("hours", [-1, pytest.param(1, marks=pytest.mark.slow_faults)])
def test_a_clock_that_is_off_by_an_hour_changes_nothing(world: World, hours: int) -> None:
    batch_id = world.clips(4, steps=20)
    world.wait_denoising(batch_id)

    world.hosts["a"].clock(3600.0 * hours)

    world.wait_ended(batch_id)
    runs = world.one(f"""SELECT count(*) FROM stage_runs r JOIN jobs j ON j.id = r.job_id
        WHERE j.batch_id = '{batch_id}' AND r.stage = 'generate'""")
    assert runs == 4
