"""One clip by several ranks: two processes on a CPU, with gloo in NCCL's place. All else is what GPUs would run."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.acceleration import Acceleration
from pipeline.errors import CrashError, RefusedError, StoppedError
from pipeline.generators.accelerations import parallel
from pipeline.generators.base import Phase, Progress, SavedCheckpoint
from pipeline.generators.process import ranks
from pipeline.generators.process.handle import GeneratorProcess
from tests.tiny_pipelines import stable_video_diffusion
from tests.unit.pipeline.generators.conftest import MakeRequest

TWO = Acceleration(context_parallel=2)


def ignore(_: Progress) -> None:
    pass


def ranks_of(generator: GeneratorProcess) -> list[int]:
    """The processes that the generator's child has started."""
    tasks = Path(f"/proc/{generator.pid}/task").iterdir()
    return sorted(int(pid) for task in tasks for pid in (task / "children").read_text().split())


def test_a_model_that_diffusers_cannot_split_is_refused() -> None:
    with pytest.raises(RefusedError, match="UNetSpatioTemporalConditionModel cannot: diffusers has no plan") as caught:
        parallel.share(stable_video_diffusion(), 2)
    assert caught.value.code == "acceleration_unsupported"


class Kept:
    """Takes the checkpoint of a stopped clip."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        shutil.move(checkpoint.path, self.path)

    def unusable(self, reason: str) -> None:
        raise AssertionError(reason)


def test_two_ranks_make_the_clip_of_one_stop_together_go_on_and_die_together(
    generator: GeneratorProcess, make_request: MakeRequest, tmp_path: Path
) -> None:
    # Given a clip that one process made
    alone = generator.generate(make_request("tiny-wan", num_inference_steps=8), ignore)

    # When two share it, then the frames are the same, to the bit
    request = replace(make_request("tiny-wan", acceleration=TWO, num_inference_steps=8), checkpoint_s=0.0)
    shared = generator.generate(request, ignore)
    assert shared.frames_sha256 == alone.frames_sha256
    assert shared.numerics["context_parallel"] == 2
    assert "context_parallel" not in alone.numerics
    (rank,) = ranks_of(generator)

    # A stop reaches both at one step; the checkpoint goes on, in the same processes
    def stop(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE and progress.step == 2:
            raise StoppedError("drain", keep=True)

    kept = Kept(tmp_path / "kept")
    with pytest.raises(StoppedError):
        generator.generate(request, stop, kept)
    resumed = generator.generate(replace(request, resume_from=kept.path), ignore, kept)
    assert 2 <= resumed.facts["resumed_from_step"] < 8
    assert resumed.frames_sha256 == alone.frames_sha256
    assert ranks_of(generator) == [rank]

    # The death of a rank is the death of the child
    def kill(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE and progress.step == 1:
            os.kill(rank, signal.SIGKILL)

    with pytest.raises(CrashError, match="rank 1 died: signal SIGKILL"):
        generator.generate(request, kill)
    assert generator.pid is None


def test_only_folders_whose_owner_is_gone_are_removed_whatever_its_process_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(ranks.tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(ranks.os, "getpid", lambda: 2**22 + 1)  # of a container that counts its own: here it is nobody's
        folder, lock = ranks._new_folder()

    ranks._remove_left_over()
    assert folder.is_dir()
    os.close(lock)  # as the kernel does when the owner dies
    ranks._remove_left_over()
    assert not folder.exists()
