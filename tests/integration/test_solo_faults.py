"""What goes wrong around a solo line: it waits, makes again, or fails the one job with a clear code."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from db.clips import cancel_retry_approve
from db.models import Queue
from db.session import Database
from pipeline.handoff import Handoff
from pipeline.policy.routes import encode_queue
from pipeline.states import AttemptOutcome, JobState, Stage
from tests import servers
from tests.line_helpers import (
    IDLE,
    assert_published_once,
    denoises,
    frames_by_job,
    home_of,
    job_list,
    job_states,
    left_in_handoff,
    processes_with,
    runs_of,
    settings_for,
    solo,
    submit,
    until,
    until_settled,
    work_off,
)
from tests.servers import Server

SUCCEEDED, FAILED = JobState.SUCCEEDED, JobState.FAILED
THREE = [{"prompt": f"clip {number}", "seed": number, **IDLE} for number in range(3)]


@pytest.fixture
def own_store() -> Iterator[Server]:
    """An S3 server that the test may stop."""
    with servers.rclone_s3_server() as server:
        yield server


def test_a_store_that_goes_away_and_comes_back_costs_no_clip(tmp_path: Path, own_store: Server) -> None:
    bucket = servers.fresh_bucket(own_store)
    settings = settings_for(tmp_path, storage=bucket.storage, s3={**bucket.s3, "timeout_s": 2})
    with home_of(settings) as database:
        batch_id = submit(settings, database, THREE)
        own_store.stop()
        with solo(settings, database) as line:
            until(
                lambda: any(run.error_code for job in job_list(database, batch_id) for run in runs_of(database, job.id))
            )
            own_store.start()
            until_settled(database, batch_id, line)

        assert job_states(database, batch_id) == [SUCCEEDED] * 3
        assert_published_once(settings, database, batch_id)
        for job in job_list(database, batch_id):
            assert [run.stage for run in runs_of(database, job.id)].count(Stage.GENERATE) == 1
        assert left_in_handoff(settings) == []


@pytest.mark.parametrize(("fault", "code"), [("keys", "storage_denied"), ("bucket", "storage_missing")])
def test_a_store_that_refuses_fails_the_job_with_its_reason_and_once_mended_a_retry_ends_it(
    tmp_path: Path, rclone_server: Server, fault: str, code: str
) -> None:
    bucket = servers.fresh_bucket(rclone_server)
    storage = "s3://no-such-bucket-here" if fault == "bucket" else bucket.storage
    keys = {"secret_access_key": "wrong"} if fault == "keys" else {}
    wrong = settings_for(tmp_path, storage=storage, s3={**bucket.s3, **keys})
    mended = settings_for(tmp_path, storage=bucket.storage, s3=bucket.s3)
    with home_of(wrong) as database:
        batch_id = submit(wrong, database, THREE[:1])
        work_off(wrong, database, batch_id)
        (job,) = job_list(database, batch_id)
        assert (job.state, job.error_code) == (FAILED, code)
        assert "s3://" in str(job.error)

        with database.transaction() as session:
            assert cancel_retry_approve.retry(session, job.id)
        work_off(mended, database, batch_id)

        assert job_states(database, batch_id) == [SUCCEEDED]
        assert_published_once(mended, database, batch_id)
        assert left_in_handoff(mended) == []


def test_a_file_where_the_output_folder_should_be_fails_the_job(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("not a folder", "utf-8")
    settings = settings_for(tmp_path, storage=str(tmp_path / "taken" / "clips"))
    with home_of(settings) as database:
        batch_id = submit(settings, database, THREE[:1])

        work_off(settings, database, batch_id)

        (job,) = job_list(database, batch_id)
        assert (job.state, job.error_code) == (FAILED, "storage_key")
        assert str(tmp_path / "taken") in str(job.error)
        # The next run removes what nobody will read.
        work_off(settings, database, batch_id)
        assert left_in_handoff(settings) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_may_not_be_written_fails_the_job(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir(mode=0o500)
    settings = settings_for(tmp_path, storage=str(tmp_path / "clips"))
    with home_of(settings) as database:
        batch_id = submit(settings, database, THREE[:1])

        work_off(settings, database, batch_id)

        (job,) = job_list(database, batch_id)
        assert (job.state, job.error_code) == (FAILED, "storage_denied")


def test_a_disk_that_is_full_while_encoding_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.touch()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(_encoder_with_limit(tmp_path, full)))
    settings = settings_for(tmp_path)
    with home_of(settings) as database:
        batch_id = submit(settings, database, [{**THREE[0], "width": 256, "height": 256}])
        (job,) = job_list(database, batch_id)
        with solo(settings, database) as line:
            until(lambda: "disk_full" in [run.error_code for run in runs_of(database, job.id)])
            full.unlink()
            until_settled(database, batch_id, line)

        assert job_states(database, batch_id) == [SUCCEEDED]
        assert [run.stage for run in runs_of(database, job.id)].count(Stage.GENERATE) == 1
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []


def _encoder_with_limit(folder: Path, while_there: Path) -> Path:
    """The real FFmpeg, which may write files of 1 KiB only as long as ``while_there`` exists."""
    script = folder / "ffmpeg"
    limit = f"[ -e {shlex.quote(str(while_there))} ] && ulimit -f 1"
    script.write_text(f'#!/bin/bash\n{limit}\nexec {shlex.quote(get_ffmpeg_exe())} "$@"\n', "utf-8")
    script.chmod(0o755)
    return script


def test_a_clip_that_can_never_fit_the_hand_off_fails_and_the_others_pass_through_it(tmp_path: Path) -> None:
    one_clip = 5 * 32 * 32 * 3
    settings = settings_for(tmp_path, handoff_bytes=one_clip + 64_000)
    with home_of(settings) as database:
        too_large = {"prompt": "large", **IDLE, "width": 512, "height": 512}
        batch_id = submit(settings, database, [*THREE, too_large])

        work_off(settings, database, batch_id)

        assert job_states(database, batch_id) == [SUCCEEDED] * 3 + [FAILED]
        assert job_list(database, batch_id)[3].error_code == "handoff_too_small"
        assert_published_once(settings, database, batch_id)


def test_frames_that_vanish_before_they_are_encoded_are_made_again_the_same(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    handoff = Handoff.open(settings.effective_handoff_dir, settings.handoff_bytes)
    with home_of(settings) as database:
        batch_id = submit(settings, database, THREE[:1])
        work_off(settings, database, batch_id)
        expected = frames_by_job(settings, database, batch_id)

        _pause(database, encode_queue(handoff.id), True)
        again = submit(settings, database, THREE[:1])
        (job,) = job_list(database, again)
        with solo(settings, database) as line:
            until(lambda: [run.stage for run in runs_of(database, job.id)] == [Stage.SCREEN, Stage.GENERATE])
            (frames,) = handoff.path.glob("*.rgb")
            frames.unlink()
            _pause(database, encode_queue(handoff.id), False)
            until_settled(database, again, line)

        runs = [(run.stage, run.outcome) for run in runs_of(database, job.id)]
        assert (Stage.ENCODE, AttemptOutcome.REWOUND) in runs
        assert runs.count((Stage.GENERATE, AttemptOutcome.DONE)) == 2
        assert [sha256 for sha256, _ in frames_by_job(settings, database, again)] == [sha256 for sha256, _ in expected]
        assert_published_once(settings, database, again)
        assert left_in_handoff(settings) == []


def test_while_the_hand_off_is_full_no_clip_is_claimed_and_given_back(tmp_path: Path) -> None:
    one_clip = 5 * 32 * 32 * 3
    settings = settings_for(tmp_path, handoff_bytes=one_clip + one_clip // 2)
    handoff = Handoff.open(settings.effective_handoff_dir, settings.handoff_bytes)

    def generations(database: Database, batch_id: str) -> list[AttemptOutcome]:
        runs = [run for job in job_list(database, batch_id) for run in runs_of(database, job.id)]
        return [run.outcome for run in runs if run.stage is Stage.GENERATE]

    with home_of(settings) as database:
        _pause(database, encode_queue(handoff.id), True)
        batch_id = submit(settings, database, [*THREE, *({**one, "seed": 50 + n} for n, one in enumerate(THREE))])
        with solo(settings, database) as line:
            until(lambda: generations(database, batch_id) == [AttemptOutcome.DONE])
            time.sleep(1.5)  # the other dispatched steps would have been claimed and given back in a moment
            assert generations(database, batch_id) == [AttemptOutcome.DONE]
            _pause(database, encode_queue(handoff.id), False)
            until_settled(database, batch_id, line)

        assert generations(database, batch_id) == [AttemptOutcome.DONE] * 6

        assert job_states(database, batch_id) == [SUCCEEDED] * 6
        assert_published_once(settings, database, batch_id)


def _pause(database: Database, queue: str, paused: bool) -> None:
    with database.transaction() as session:
        session.merge(Queue(name=queue, paused=paused))


def test_a_generator_that_is_killed_in_a_step_is_replaced_and_makes_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.1")
    settings = settings_for(tmp_path)
    lines = [{**THREE[0], "num_inference_steps": 30}, THREE[1]]
    with home_of(settings) as database:
        batch_id = submit(settings, database, lines)
        first, second = job_list(database, batch_id)
        with solo(settings, database) as line:
            until(lambda: denoises(database, batch_id))
            (child,) = processes_with(str(settings.effective_cache_dir))
            os.kill(child, signal.SIGKILL)
            until_settled(database, batch_id, line)
        killed = frames_by_job(settings, database, batch_id)
        undisturbed = submit(settings, database, [{**line, "num_inference_steps": 1} for line in lines])
        work_off(settings, database, undisturbed)

        assert job_states(database, batch_id) == [SUCCEEDED] * 2
        codes = [run.error_code for job in (first, second) for run in runs_of(database, job.id) if run.error_code]
        assert codes == ["generator_crashed"]
        # The idle generator's frames depend on the seed alone.
        assert [made for made, _ in killed] == [made for made, _ in frames_by_job(settings, database, undisturbed)]
        assert_published_once(settings, database, batch_id)
        assert left_in_handoff(settings) == []
