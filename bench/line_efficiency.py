"""Measures which share of GPU time becomes clips: vgen beside the loop that a user would write.

    python -m bench.line_efficiency [--gpus 1 2 4] [--clip-seconds 1 2 5 20] [--seconds 180] [--only line loop thread]
                                    [--loop-quality 6.4]

The GPU is simulated: a clip takes so many seconds, in steps, and leaves 81 frames of 480 × 832 (moving shapes with
grain), while the CPU is as free as beside a real GPU. Line efficiency is the sum of the bare times of all clips over
GPUs × wall time, from the first claim of a generate step to the last publish, with warm workers.

line    `vgen worker` over PostgreSQL, Redis and an S3 server, all on this machine
loop    a process a GPU: wait as long as the GPU takes, diffusers' ``export_to_video``, upload with boto3, in turn
thread  the same, with encoding and upload in one further thread a process

The loops' quality is ``export_to_video``'s own number: 6.4 is x264's CRF 18, as the line's, so that files are equally
large; 5, its default, is CRF 25. The speed preset is medium in both cases: it cannot be chosen there.

The bound is what the cores allow, from the core-seconds that a clip's own work takes while all cores are busy with
such work and nothing else (``bench.parts.clip_work``, before and after each batch of the line): no clip is encoded
before the first one is made, none is done before the last of each GPU is encoded. (The line writes and hashes the
frames, reads them for the digest again, encodes, decodes the finished file, makes two pictures and uploads; the loops
convert frames, encode and upload.) A batch lasts as long as asked where the bound is kept.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from bench.encode import write_clip
from bench.parts.clip_work import ClipWork, core_seconds
from bench.parts.loops import SAME_QUALITY, Loop, run_loops
from pipeline.encoding import ffmpeg
from pipeline.presets import get_preset
from pipeline.spec import EncodeOptions, JobSpec
from tests.cluster import Cluster, running_cluster, wait_for

FRAMES, HEIGHT, WIDTH, FPS = 81, 480, 832, 16.0
STEPS = 20
ENCODE = EncodeOptions()
CALM = {
    "VGEN_LOG_LEVEL": "WARNING",
    "VGEN_WORKER_LEASE_S": "30",
    "VGEN_WORKER_RENEW_S": "5",
    "VGEN_WORKER_CONTROL_S": "1",
    "VGEN_WORKER_DISPATCH_S": "1",
    "VGEN_WORKER_RECONCILE_S": "5",
}
"""Settings nearer to a fleet's than those of a test's cluster."""
SHARED_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""The folder where compose has the hand-off too."""
HANDOFF_BYTES = 2 * 1024**3
"""The bytes of frames that may wait for the encoders: 22 clips."""
FIELDS = {"preset": "idle", "num-inference-steps": STEPS, "num-frames": FRAMES}
FIELDS |= {"width": WIDTH, "height": HEIGHT, "fps": FPS}


@dataclass(frozen=True, slots=True)
class Setup:
    """One row of the table: ``gpus`` GPUs, ``clip_s`` seconds a clip, ``clips`` for each GPU."""

    gpus: int
    clip_s: float
    clips: int

    def efficiency(self, wall_s: float) -> float:
        return self.clips * self.clip_s / wall_s

    def least_wall_s(self, core_s: float, cores: int) -> float:
        """Seconds that the batch takes at least, where a clip needs ``core_s`` seconds of a core."""
        gpus_first = self.clips * self.clip_s + self.gpus * core_s / cores
        cores_first = self.clip_s + self.gpus * self.clips * core_s / cores
        return max(gpus_first, cores_first)


@dataclass(frozen=True, slots=True)
class Row:
    """The result of a batch, and of the work of its clips alone."""

    setup: Setup
    wall_s: float
    core_s: float
    cores: int

    @property
    def efficiency(self) -> float:
        return self.setup.efficiency(self.wall_s)

    def __str__(self) -> str:
        bound = self.setup.efficiency(self.setup.least_wall_s(self.core_s, self.cores))
        return (
            f"{self.setup.gpus * self.setup.clips:5}  {self.wall_s:6.1f}  {self.core_s:6.2f}  {self.efficiency:10.3f}"
            f"  {bound:5.3f}  {self.efficiency / bound:5.3f}"
        )


def measure(
    gpus: int, clip_s: float, seconds: float, own_work_s: Callable[[], float], run: Callable[[Setup], float]
) -> Row:
    """One batch. ``own_work_s``: core-seconds that a clip takes now; ``run``: wall seconds of a batch."""
    cores, before_s = len(os.sched_getaffinity(0)), own_work_s()
    share = min(1.0, cores / before_s / (gpus / clip_s))
    setup = Setup(gpus, clip_s, math.ceil(seconds * share / clip_s))
    wall_s = run(setup)
    # Asked again: a machine that is shared with others changes its speed by a fifth within minutes.
    return Row(setup, wall_s, (before_s + own_work_s()) / 2, cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--clip-seconds", type=float, nargs="+", default=[1, 2, 5, 20])
    parser.add_argument("--seconds", type=float, default=180.0, help="how long each measurement lasts at least")
    parser.add_argument("--only", nargs="+", choices=["line", "loop", "thread"], default=["line", "loop", "thread"])
    parser.add_argument(
        "--loop-quality", type=float, default=SAME_QUALITY, help="the loops' quality, for export_to_video"
    )
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"machine: {cores} CPU cores, {platform.machine()}, Python {platform.python_version()}")
    print(f"clips of {FRAMES} frames {WIDTH}×{HEIGHT}; line: {ENCODE}; loops: quality {arguments.loop_quality:g}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "clip.rgb"
        write_clip(raw, FRAMES, HEIGHT, WIDTH)
        work = ClipWork(str(raw), spec_of("idle", width=WIDTH, height=HEIGHT, num_frames=FRAMES, fps=FPS), ENCODE)
        loop_s = 0.0
        if {"loop", "thread"} & set(arguments.only):
            loop_s = _loop_core_seconds(raw, cores, arguments.loop_quality)  # once: it takes a minute
            print(f"core-seconds of a clip of the loops, all cores busy: {loop_s:.2f}")
        print("GPUs  clip s  measured  clips  wall s  core-s  efficiency  bound  of it  line over it", flush=True)
        for gpus in arguments.gpus:
            for clip_s in arguments.clip_seconds:
                line = math.nan
                for kind in arguments.only:
                    if kind == "line":
                        own_work = partial(core_seconds, work, cores, SHARED_MEMORY)
                        row = measure(gpus, clip_s, arguments.seconds, own_work, partial(_line, raw=raw))
                    else:
                        loops = partial(_loops, raw=raw, kind=kind, quality=arguments.loop_quality)
                        row = measure(gpus, clip_s, arguments.seconds, lambda: loop_s, loops)
                    line = row.efficiency if kind == "line" else line
                    print(f"{gpus:4}  {clip_s:6g}  {kind:8}  {row}  {line / row.efficiency:12.2f}", flush=True)


def encode_core_seconds(raw: Path, folder: Path, options: EncodeOptions) -> float:
    """CPU time of one encode into ``one.mp4``, all threads together."""
    before = _cpu_seconds()
    ffmpeg.encode(
        raw,
        folder / "one.mp4",
        width=WIDTH,
        height=HEIGHT,
        num_frames=FRAMES,
        fps=FPS,
        options=options,
        metadata={},
        check=lambda: None,
        timeout_s=600.0,
    )
    return _cpu_seconds() - before


def spec_of(preset: str, **fields: object) -> JobSpec:
    """A clip of the preset's defaults but for the fields."""
    defaults = get_preset(preset).defaults.model_dump()
    return JobSpec.model_validate({**defaults, "prompt": "-", "preset": preset, "seed": 0, **fields})


def _loop_core_seconds(raw: Path, cores: int, quality: float) -> float:
    """Core-seconds of a clip of the loops, beside which nothing is waited for."""
    clips = 8
    return run_loops(Loop(_Waiting(str(raw), 0.0), clips, int(FPS), quality, threaded=False), cores) / clips


def _as_a_pipeline_returns_them(raw: Path) -> list[np.ndarray]:
    """Frames as float32 between 0 and 1, H × W × 3 each."""
    recorded = np.fromfile(raw, np.uint8).reshape(FRAMES, HEIGHT, WIDTH, 3)
    return [frame.astype(np.float32) / 255 for frame in recorded]


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _line(setup: Setup, raw: Path) -> float:
    """Wall seconds of one batch, from its first generate claim to its last publish."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as handoff:
        env = {
            "VGEN_HANDOFF_DIR": handoff,
            "VGEN_HANDOFF_BYTES": str(HANDOFF_BYTES),
            "VGEN_IDLE_STEP_S": str(setup.clip_s / STEPS),
            "VGEN_IDLE_FRAMES": str(raw),
            "VGEN_GPU_COUNT": str(setup.gpus),
        }
        with running_cluster(Path(name), **CALM, **env) as cluster:
            cluster.start_worker(workers=setup.gpus + 2)
            submit_and_wait(cluster, 2 * setup.gpus, "warm-up", FIELDS)
            batch_id = submit_and_wait(cluster, setup.gpus * setup.clips, "measured", FIELDS)
            runs = f"stage_runs WHERE job_id LIKE '{batch_id}-%'"
            generated = f"{runs} AND stage = 'generate' AND outcome = 'done'"
            clips = cluster.rows(f"SELECT worker, started_at, ended_at FROM {generated} ORDER BY 2")
            last = cluster.one(f"SELECT max(ended_at) FROM {runs}")
        _tell(setup, clips, last)
        return float(last - clips[0][1]) / 1000


def _tell(setup: Setup, clips: Sequence[tuple[str, int, int]], last: int) -> None:
    """Say where a GPU's time went that is not a clip's own, from (worker, claimed at, ended at) of each, in ms."""
    more = [ended - started - 1000 * setup.clip_s for _, started, ended in clips]
    before: dict[str, int] = {}
    gaps = []
    for worker, started, ended in clips:
        if worker in before:
            gaps.append(started - before[worker])
        before[worker] = ended
    print(
        f"      a clip: {statistics.median(more):.0f} ms more than the GPU's time, {statistics.median(gaps):.0f} ms "
        f"until the next (medians; means {statistics.mean(more):.0f}, {statistics.mean(gaps):.0f}); "
        f"after the last frame: {(last - clips[-1][2]) / 1000:.1f} s"
    )


def submit_and_wait(cluster: Cluster, clips: int, name: str, fields: Mapping[str, object]) -> str:
    """Submit so many clips and wait until every one of them has succeeded; the batch's id.

    ``fields`` are options of ``vgen submit`` by their names without dashes.
    """
    prompts = cluster.folder / f"{name}.txt"
    prompts.write_text("".join(f"{name} {number}\n" for number in range(clips)))
    submitted = cluster.json("submit", str(prompts), *(f"--{field}={value}" for field, value in fields.items()))
    batch_id = str(submitted["batch"]["id"])
    done = f"SELECT count(*) FROM jobs WHERE batch_id = '{batch_id}' AND state = 'succeeded'"
    wait_for(lambda: cluster.one(done) == clips, f"{clips} clips are made\n{cluster.log}", patience_s=7200, every_s=1.0)
    return batch_id


def _loops(setup: Setup, raw: Path, kind: str, quality: float) -> float:
    """Wall seconds of the hand-written loops, from when all are warm to the last upload."""
    waiting = _Waiting(str(raw), setup.clip_s)
    return run_loops(Loop(waiting, setup.clips, int(FPS), quality, threaded=kind == "thread"), setup.gpus)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A simulated GPU in a hand-written loop."""

    raw: str
    clip_s: float

    def warm(self) -> None:
        pass

    def __call__(self, clip: int) -> list[np.ndarray]:
        frames = _frames_kept(self.raw)
        time.sleep(0 if clip < 0 else self.clip_s)
        return frames


@lru_cache(maxsize=1)
def _frames_kept(raw: str) -> list[np.ndarray]:
    return _as_a_pipeline_returns_them(Path(raw))


if __name__ == "__main__":
    main()
