"""vgen's application with stages that do nothing, so that bench/orchestration.py measures the overhead alone."""

from __future__ import annotations

from bench.parts.frames import FRAMES
from pipeline.outputs import ScreenOutput
from pipeline.states import Stage
from pipeline.work import AnyResult, Artifact, Outcome, StageContext, StageFunction, StageResult, StepWork
from tasks.app import app
from tasks.worker import step

__all__ = ["app"]


def _empty(work: StepWork, context: StageContext) -> AnyResult:
    if work.stage is Stage.SCREEN:
        return StageResult(ScreenOutput(screened=False, reason="a benchmark"), Outcome.SKIPPED)
    if work.stage is Stage.GENERATE:
        return StageResult(FRAMES)
    if work.stage is Stage.PUBLISH:
        key = f"media/{work.job_id}/bench.mp4"
        return StageResult(None, artifacts=(Artifact("video", key, "0" * 64, 1, "video/mp4"),))
    return StageResult(None)


def _stage_function(stage: Stage) -> StageFunction:
    return _empty


step.stage_function = _stage_function
