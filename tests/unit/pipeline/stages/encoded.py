"""Work for the encode and publish stages: real frames in a real hand-off folder, a real store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.handoff import Handoff
from pipeline.outputs import EnhanceOutput, GenerateOutput, ScreenOutput, StageOutputs
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, EncodeOptions, JobSpec
from pipeline.states import Stage
from pipeline.storage.base import Storage
from pipeline.storage.folder import FolderStorage
from pipeline.wiring import StageModels
from pipeline.work import StageContext, StepWork
from tests.unit.pipeline.encoding.clips import Frames, moving_picture

JOB_ID = "0k3v9x2abcdef-000001"
FRAMES, HEIGHT, WIDTH = 5, 48, 64
PROMPT = "a fox 🦊 in the snow"


@dataclass
class Bench:
    """A hand-off folder with one job's frames, and the context of a worker that serves it."""

    context: StageContext
    frames: Frames
    frames_path: Path
    outputs: StageOutputs

    def work(self, stage: Stage = Stage.ENCODE, attempt: int = 1, **options: Any) -> StepWork:
        spec = JobSpec(
            prompt="a fox",
            seed=2**63 - 1,
            preset="tiny-wan",
            width=WIDTH,
            height=HEIGHT,
            num_frames=FRAMES,
            fps=8,
            num_inference_steps=2,
            guidance_scale=5.0,
        )
        return StepWork(
            job_id=JOB_ID,
            batch_id=JOB_ID[:13],
            line=1,
            roll=0,
            segment=0,
            stage=stage,
            attempt=attempt,
            spec=spec,
            options=BatchOptions(encode=EncodeOptions(**options)),
            outputs=self.outputs,
        )

    def stored(self) -> list[str]:
        return sorted(item.key for item in self.context.storage.list("media/"))

    def left_in_handoff(self) -> list[str]:
        return sorted(path.name for path in self.context.handoff.path.iterdir() if path.name != "handoff.id")


def make_bench(tmp_path: Path, check: Callable[[], None] = lambda: None, storage: Storage | None = None) -> Bench:
    handoff = Handoff.open(tmp_path / "handoff", 10**9)
    frames = moving_picture(FRAMES, HEIGHT, WIDTH)
    path = handoff.frames_path(JOB_ID, 0, 0, 3)
    handoff.reserve(path, frames.nbytes)
    path.write_bytes(frames.tobytes())
    generate = GenerateOutput(
        frames_path=str(path),
        handoff_id=handoff.id,
        num_frames=FRAMES,
        height=HEIGHT,
        width=WIDTH,
        frames_sha256=hashlib.sha256(frames.tobytes()).hexdigest(),
        numerics={"device": "cpu", "torch": "2.13"},
        model_revision="tiny-wan@1",
        timings_s={"denoise": 0.5},
        gpu_type="cpu",
        prompt=PROMPT,
        peak_memory_bytes=None,
    )
    outputs = StageOutputs(
        generate=generate,
        enhance=EnhanceOutput(prompt=PROMPT, original="a fox"),
        screen=ScreenOutput(screened=True, reason="safe", label="safe"),
    )
    context = StageContext(
        settings=Settings(home=tmp_path / "home"),
        models=StageModels(Settings(home=tmp_path / "home")),
        storage=storage or FolderStorage(tmp_path / "media"),
        handoff=handoff,
        on_progress=lambda _: None,
        check=check,
    )
    return Bench(context, frames, path, outputs)
