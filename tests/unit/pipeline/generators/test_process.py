"""The parent's handle on a real child: results, stops, deaths, hangs."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import CrashError, FatalError, NotFoundError, StoppedError
from pipeline.generators.base import NO_CHECKPOINTS, Phase, Progress
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.settings import load_settings
from tests.unit.pipeline.generators.conftest import MakeRequest

SLOW = {"VGEN_IDLE_STEP_S": "0.05"}
STUCK = {"VGEN_IDLE_STEP_S": "3600"}


@pytest.fixture(scope="module")
def real(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratorProcess]:
    """One child for the tests of a real model. The idle one is slowed: else a clip is done before a stop is there."""
    settings = load_settings(home=tmp_path_factory.mktemp("real"), cache_dir=model_cache)
    with GeneratorProcess(settings, device_env=SLOW) as process:
        yield process


def ignore(_: Progress) -> None:
    pass


def gone(pid: int, within_s: float = 20.0) -> bool:
    """True once no process of that id runs (a zombie does not)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_result_describes_the_file_it_wrote(generator: GeneratorProcess, make_request: MakeRequest) -> None:
    request = make_request("idle")
    result = generator.generate(request, ignore)
    assert result.frames_sha256 == hashlib.sha256(request.frames_path.read_bytes()).hexdigest()
    assert (result.num_frames, result.height, result.width) == (9, 48, 64)
    assert result.facts["random_weights"] is True


def test_progress_counts_every_denoising_step(real: GeneratorProcess, make_request: MakeRequest) -> None:
    real.close()
    seen: list[Progress] = []
    real.generate(make_request("tiny-wan", num_inference_steps=5), seen.append)
    assert [(p.step, p.total) for p in seen if p.phase is Phase.DENOISE] == [(step, 5) for step in range(1, 6)]
    assert list(dict.fromkeys(p.phase for p in seen)) == [
        Phase.LIBRARIES,
        Phase.LOAD,
        Phase.WARM_UP,
        Phase.ENCODE_TEXT,
        Phase.DENOISE,
        Phase.DECODE,
        Phase.HAND_OFF,
    ]


def test_model_stays_loaded_between_clips(real: GeneratorProcess, make_request: MakeRequest) -> None:
    real.generate(make_request("tiny-wan"), ignore)
    pid, seen = real.pid, list[Progress]()
    real.generate(make_request("tiny-wan"), seen.append)
    assert real.pid == pid
    assert real.loaded_preset == "tiny-wan"
    assert Phase.LOAD not in {progress.phase for progress in seen}


@pytest.mark.parametrize("preset", ["idle", "tiny-wan"])
def test_stop_from_the_callback_ends_mid_way_and_keeps_the_child(
    real: GeneratorProcess, make_request: MakeRequest, preset: str
) -> None:
    seen: list[Progress] = []

    def stop_at_two(progress: Progress) -> None:
        seen.append(progress)
        if progress.phase is Phase.DENOISE and progress.step == 2:
            raise StoppedError("cancelled")

    request = make_request(preset, num_inference_steps=200)
    with pytest.raises(StoppedError, match="cancelled"):
        real.generate(request, stop_at_two)
    pid = real.pid
    assert seen[-1].step == 2
    frames = request.frames_path.read_bytes()
    assert frames.count(0) == len(frames), "the clip was finished"
    real.generate(make_request(preset), ignore)
    assert real.pid == pid


@pytest.mark.parametrize("preset", ["idle", "tiny-wan"])
def test_the_next_clip_is_made_while_one_is_handed_over(
    real: GeneratorProcess, make_request: MakeRequest, preset: str
) -> None:
    one, two = make_request(preset, seed=1), make_request(preset, seed=2)
    made, begun = threading.Event(), threading.Event()

    def until_the_next_has_begun(progress: Progress) -> None:
        if progress.phase is Phase.HAND_OFF:
            assert begun.wait(60), "the next clip waits"

    def note(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE:
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(real.generate, one, until_the_next_has_begun, NO_CHECKPOINTS, made.set)
        assert made.wait(60)
        results = [real.generate(two, note), first.result(60)]

    for request, result in zip((two, one), results, strict=True):
        assert result.frames_sha256 == hashlib.sha256(request.frames_path.read_bytes()).hexdigest()
    assert results[0].frames_sha256 == real.generate(make_request(preset, seed=2), ignore).frames_sha256
    assert results[1].frames_sha256 == real.generate(make_request(preset, seed=1), ignore).frames_sha256


def test_a_child_that_dies_takes_both_clips_and_is_replaced_once(tmp_path: Path, make_request: MakeRequest) -> None:
    hangs = {**SLOW, "VGEN_FAILPOINTS": f"frames_write=sleep:3600@1!{tmp_path / 'hangs'}"}
    made = threading.Event()
    with GeneratorProcess(load_settings(home=tmp_path / "vgen"), device_env=hangs) as generator:

        def kill(progress: Progress) -> None:
            if progress.phase is Phase.DENOISE and progress.step == 2 and generator.pid is not None:
                os.kill(generator.pid, signal.SIGKILL)

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(generator.generate, make_request("idle"), ignore, NO_CHECKPOINTS, made.set)
            assert made.wait(60)
            with pytest.raises(CrashError, match="SIGKILL"):
                generator.generate(make_request("idle", num_inference_steps=200), kill)
            generator.start()
            successor = generator.pid
            with pytest.raises(CrashError, match="SIGKILL"):
                first.result(60)

        assert generator.generate(make_request("idle"), ignore).num_frames == 9
        assert generator.pid == successor


def test_request_stop_from_another_thread(make_request: MakeRequest, tmp_path: Path) -> None:
    with GeneratorProcess(load_settings(home=tmp_path), device_env=SLOW) as generator:
        begun = threading.Event()
        stopper = threading.Thread(target=lambda: (begun.wait(30), generator.request_stop()))
        stopper.start()
        with pytest.raises(StoppedError):
            generator.generate(make_request("idle", num_inference_steps=1000), lambda _: begun.set())
        stopper.join()


def test_killed_child_is_a_crash_and_the_next_call_works(make_request: MakeRequest, tmp_path: Path) -> None:
    """Whatever model it has; tests/integration/test_checkpoints.py kills one that has a real model."""
    killed: list[int] = []
    with GeneratorProcess(load_settings(home=tmp_path), device_env=SLOW) as generator:

        def kill_at_two(progress: Progress) -> None:
            if progress.phase is Phase.DENOISE and progress.step == 2 and not killed:
                assert generator.pid is not None
                killed.append(generator.pid)
                os.kill(generator.pid, signal.SIGKILL)

        with pytest.raises(CrashError, match="SIGKILL") as caught:
            generator.generate(make_request("idle", num_inference_steps=200), kill_at_two)
        assert caught.value.code == "generator_crashed"
        assert generator.loaded_preset is None
        result = generator.generate(make_request("idle"), ignore)
        assert result.num_frames == 9
        assert generator.pid not in (None, killed[0])


def test_crash_tells_what_the_child_last_wrote(tmp_path: Path, make_request: MakeRequest) -> None:
    broken = {"VGEN_IDLE_STEP_S": "no number"}
    with GeneratorProcess(load_settings(home=tmp_path), device_env=broken) as generator:
        with pytest.raises(FatalError, match="ValueError: could not convert string to float"):
            generator.generate(make_request("idle"), ignore)
    with GeneratorProcess(load_settings(home=tmp_path), device_env={"PYTHONHOME": str(tmp_path)}) as generator:
        with pytest.raises(CrashError, match=r"(?s)exit status 1.*encodings"):
            generator.generate(make_request("idle"), ignore)


def test_silent_child_is_killed_after_the_step_deadline(tmp_path: Path, make_request: MakeRequest) -> None:
    settings = load_settings(home=tmp_path, worker={"step_deadline_s": 1.0})
    with GeneratorProcess(settings, device_env=STUCK) as generator:
        pids: list[int | None] = []
        with pytest.raises(CrashError, match="no sign of life for 1 s") as caught:
            generator.generate(make_request("idle"), lambda _: pids.append(generator.pid))
        assert caught.value.code == "generator_hung"
        assert pids[0] is not None
        assert gone(pids[0])


def test_unknown_preset_starts_nothing(generator: GeneratorProcess) -> None:
    with pytest.raises(NotFoundError, match="no-such"):
        generator.load("no-such", ignore)
    assert generator.pid is None


def test_close_ends_the_child(generator: GeneratorProcess) -> None:
    generator.load("idle", ignore)
    pid, resident = generator.pid, generator.rss
    assert pid is not None
    assert resident is not None
    assert resident > 1_000_000
    generator.close()
    assert gone(pid)
    assert generator.pid is None
    assert generator.rss is None


def test_child_survives_the_thread_that_started_it(generator: GeneratorProcess, make_request: MakeRequest) -> None:
    starter = threading.Thread(target=lambda: generator.load("idle", ignore))
    starter.start()
    starter.join()
    pid = generator.pid
    generator.generate(make_request("idle"), ignore)
    assert generator.pid == pid


PARENT = """
import sys
from pathlib import Path
from pipeline.generators.base import GenerationRequest
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.settings import load_settings
from pipeline.spec import JobSpec
generator = GeneratorProcess(load_settings(home=Path(sys.argv[1])), device_env={"VGEN_IDLE_STEP_S": "3600"})
generator.load("idle", lambda _: None)
print(generator.pid, "torch" in sys.modules, "diffusers" in sys.modules, flush=True)
spec = JobSpec(prompt="p", seed=1, preset="idle", width=32, height=32, num_frames=1, fps=8,
               num_inference_steps=4, guidance_scale=1)
frames = Path(sys.argv[1]) / "frames.rgb"
frames.write_bytes(bytes(32 * 32 * 3))
generator.generate(GenerationRequest(spec, "p", frames), lambda _: None)
"""


def test_child_ends_when_its_parent_is_killed_and_the_parent_loads_no_torch(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            pid, torch_loaded, diffusers_loaded = parent.stdout.readline().split()
        finally:
            parent.kill()
    assert gone(int(pid))
    assert (torch_loaded, diffusers_loaded) == ("False", "False")


def test_a_child_that_grew_too_large_is_replaced_between_two_clips(tmp_path: Path, make_request: MakeRequest) -> None:
    told: list[tuple[str, str]] = []
    settings = load_settings(home=tmp_path / "vgen", worker={"growth_bytes": 64 * 1024 * 1024})
    leaks = {"VGEN_FAILPOINTS": "denoise_step:1=leak:32@2;denoise_step:7=leak:96@2"}
    with GeneratorProcess(settings, device_env=leaks, on_recycled=lambda *said: told.append(said)) as generator:
        generator.generate(make_request("idle", seed=1), ignore)
        first, held = generator.pid, generator.rss
        assert first is not None
        assert told == [], "32 MiB more are allowed"

        grown = generator.generate(make_request("idle"), ignore)

        ((preset, reason),) = told
        assert preset == "idle"
        assert "resident in the host's memory" in reason
        assert "64 MiB are allowed (VGEN_WORKER_GROWTH_BYTES)" in reason
        assert generator.loaded_preset is None
        assert gone(first)
        fresh = generator.generate(make_request("idle", seed=1), ignore)
        assert generator.pid not in (None, first)
        assert (generator.rss or 0) < (held or 0) + 32 * 1024 * 1024
        assert grown.frames_sha256 != fresh.frames_sha256
