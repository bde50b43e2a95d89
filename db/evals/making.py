"""How a batch's clips were made, as far as rows say; reports compare it beside the scores."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Batch, EvalRun, Job, Step
from pipeline.outputs import GenerateOutput
from pipeline.states import JobState, Stage, StepState

VERSION = "vgen"
"""The key of a run's suite that holds the version by which it was begun."""
_NO_SETTINGS = frozenset(
    {
        *("prompt", "seed", "custom_id", "labels", "priority", "gpu", "segment_prompts", "extends", "begins_with"),
        *("image", "last_image", "video", "reference_images"),
        *("preset", "preset_digest", "width", "height", "num_frames", "fps"),
    }
)
"""Fields of a specification that differ from clip to clip, decide no pixel, or have a place of their own."""


def making_of(session: Session, batch_id: str) -> dict[str, dict[str, Any]]:
    """By job: when, by which preset, model, GPU and libraries, of which size and with which settings it was made."""
    options = session.scalars(select(Batch.options).where(Batch.id == batch_id)).one_or_none() or {}
    runs = session.scalars(select(EvalRun.suite).where(EvalRun.batch_id == batch_id).order_by(EvalRun.id))
    version = next((suite[VERSION] for suite in runs if suite and VERSION in suite), None)
    rows = session.execute(
        select(Job.id, Job.spec, Job.finished_at, Step.output)
        .outerjoin(
            Step,
            (Step.job_id == Job.id)
            & (Step.roll == Job.roll)
            & (Step.stage == Stage.GENERATE)
            & (Step.segment == 0)
            & (Step.state == StepState.DONE),
        )
        .where(Job.batch_id == batch_id, Job.state == JobState.SUCCEEDED)
    )
    making = {}
    for job_id, spec, finished_at, output in rows:
        generated = None if output is None else GenerateOutput.from_row(output)
        facts = {
            "at": None
            if finished_at is None
            else datetime.fromtimestamp(finished_at / 1000, UTC).isoformat("T", "seconds"),
            "preset": spec["preset"],
            "preset_digest": spec.get("preset_digest"),
            "size": f"{spec['width']}x{spec['height']}",
            "num_frames": spec["num_frames"],
            "fps": spec["fps"],
            "settings": {name: value for name, value in spec.items() if name not in _NO_SETTINGS},
            "encode": options.get("encode"),
            "version": version,
        }
        if generated is not None:
            facts |= {"model_revision": generated.model_revision, "gpu_type": generated.gpu_type}
            facts["libraries"] = generated.numerics
        making[job_id] = {name: value for name, value in facts.items() if value is not None}
    return making
