"""Steps for stages that touch neither storage nor GPU: both are None, so that a use of them fails the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pipeline.handoff import Handoff
from pipeline.outputs import StageOutputs
from pipeline.settings import EnhanceSettings, SafetySettings, Settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import Stage
from pipeline.storage.base import Storage
from pipeline.wiring import StageModels
from pipeline.work import StageContext, StepWork


def make_work(
    stage: Stage, prompt: str, *, policy: str = "closed", outputs: StageOutputs | None = None, **spec: Any
) -> StepWork:
    values = {
        "seed": 1,
        "preset": "tiny-wan",
        "width": 64,
        "height": 64,
        "num_frames": 5,
        "fps": 16,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
    }
    return StepWork(
        job_id="job-1",
        batch_id="batch-1",
        line=1,
        roll=0,
        segment=0,
        stage=stage,
        attempt=1,
        spec=JobSpec.model_validate(values | {"prompt": prompt} | spec),
        options=BatchOptions.model_validate({"safety_policy": policy}),
        outputs=outputs or StageOutputs(),
    )


def make_context(
    tmp_path: Path,
    *,
    enhance: EnhanceSettings | None = None,
    safety: SafetySettings | None = None,
    check: Callable[[], None] = lambda: None,
) -> StageContext:
    settings = Settings(home=tmp_path / "home", enhance=enhance or EnhanceSettings(), safety=safety or SafetySettings())
    return StageContext(
        settings=settings,
        models=StageModels(settings),
        storage=cast(Storage, None),
        handoff=Handoff.open(tmp_path / "handoff", 1024),
        on_progress=lambda progress: None,
        check=check,
    )
