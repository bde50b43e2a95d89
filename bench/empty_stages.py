"""vgen's own application with stages that do nothing, for bench/orchestration.py: what is left is the line."""

from __future__ import annotations

from pipeline.states import Stage
from pipeline.work import Artifact, Outcome, StageContext, StageFunction, StageResult, StepWork
from tasks.app import app
from tasks.worker import step

__all__ = ["app"]


def _empty(work: StepWork, context: StageContext) -> StageResult:
    if work.stage is Stage.SCREEN:
        return StageResult(outcome=Outcome.SKIPPED, output={"screened": False})
    if work.stage is Stage.GENERATE:
        frames = {"num_frames": 1, "frames_sha256": "0" * 64, "handoff_id": "bench", "prompt": work.spec.prompt}
        return StageResult(output=frames)
    if work.stage is Stage.PUBLISH:
        key = f"media/{work.job_id}/bench.mp4"
        return StageResult(artifacts=(Artifact("video", key, "0" * 64, 1, "video/mp4"),))
    return StageResult()


def _stage_function(stage: Stage) -> StageFunction:
    return _empty


step.stage_function = _stage_function
