"""The generate stage with a real generator child, a real hand-off folder and a real store."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import OutOfMemoryError, RefusedError, RetryableError, StoppedError
from pipeline.generators.base import GenerationRequest, GenerationResult, Phase, Progress
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.handoff import Handoff
from pipeline.outputs import StageOutputs
from pipeline.policy.memory_ladder import Rung, on_rung
from pipeline.settings import load_settings
from pipeline.spec import BatchOptions, InputRef, JobSpec
from pipeline.stages import generate
from pipeline.states import Stage
from pipeline.storage.folder import FolderStorage
from pipeline.wiring import StageModels
from pipeline.work import StageContext, StepWork
from tests.outputs import enhanced

SPEC = JobSpec(
    prompt="a lighthouse",
    seed=3,
    preset="idle",
    width=32,
    height=16,
    num_frames=5,
    fps=8,
    num_inference_steps=3,
    guidance_scale=1.0,
)
WORK = StepWork("job", "batch", 1, 0, 0, Stage.GENERATE, 1, SPEC, BatchOptions(), StageOutputs())


@pytest.fixture
def context(tmp_path: Path) -> Iterator[StageContext]:
    settings = load_settings(home=tmp_path)
    with GeneratorProcess(settings) as generator:
        yield StageContext(
            settings=settings,
            models=StageModels(settings),
            storage=FolderStorage(tmp_path / "media"),
            handoff=Handoff.open(tmp_path / "handoff", 1_000_000),
            on_progress=lambda _: None,
            check=lambda: None,
            generator=generator,
            gpu_type="cpu",
        )


def left_over(context: StageContext) -> list[str]:
    return [path.name for path in context.handoff.path.iterdir() if path.name.startswith(WORK.job_id)]


def test_frames_lie_in_the_handoff_under_their_digest(context: StageContext) -> None:
    result = generate.run(WORK, context)
    frames = Path(result.output.frames_path).read_bytes()
    assert len(frames) == 5 * 16 * 32 * 3
    assert result.output.frames_sha256 == hashlib.sha256(frames).hexdigest()
    assert result.output.handoff_id == context.handoff.id
    assert result.output.gpu_type == "cpu"
    assert result.output.as_json()["facts"]["random_weights"] is True


@pytest.mark.parametrize(
    ("outputs", "prompt"),
    [(StageOutputs(), "a lighthouse"), (StageOutputs(enhance=enhanced("a tall lighthouse")), "a tall lighthouse")],
)
def test_prompt_is_the_enhanced_one_where_there_is_one(
    context: StageContext, outputs: StageOutputs, prompt: str
) -> None:
    assert generate.run(replace(WORK, outputs=outputs), context).output.prompt == prompt


def test_stop_frees_the_frames(context: StageContext) -> None:
    def stop(progress: Progress) -> None:
        if progress == Progress(Phase.DENOISE, 2, 3):
            raise StoppedError("drain")

    with pytest.raises(StoppedError, match="drain"):
        generate.run(WORK, replace(context, on_progress=stop))
    assert left_over(context) == []


def test_a_clip_larger_than_the_whole_handoff_is_refused_before_the_gpu_works(context: StageContext) -> None:
    big = replace(WORK, spec=SPEC.model_copy(update={"num_frames": 1000}))
    with pytest.raises(RefusedError, match="VGEN_HANDOFF_BYTES") as caught:
        generate.run(big, context)
    assert caught.value.code == "handoff_too_small"
    assert left_over(context) == []


def test_image_that_is_not_in_the_store(context: StageContext) -> None:
    image = InputRef(sha256="0" * 64, media_type="image/png", name="cat.png")
    with pytest.raises(RefusedError, match=r"cat\.png") as caught:
        generate.run(replace(WORK, spec=SPEC.model_copy(update={"image": image})), context)
    assert caught.value.code == "input_missing"
    assert left_over(context) == []


@pytest.mark.parametrize("ahead", [False, True])
def test_an_input_that_is_not_the_one_that_was_checked_reaches_no_model(context: StageContext, ahead: bool) -> None:
    image = InputRef(sha256="0" * 64, media_type="image/png", name="cat.png")
    context.storage.put_bytes(image.key, b"another picture", content_type="image/png")
    cached = context.settings.effective_cache_dir / "ahead" / image.sha256
    if ahead:
        cached.parent.mkdir(parents=True)
        cached.write_bytes(b"another picture")
    with pytest.raises(RetryableError, match="came with the sha256") as caught:
        generate.run(replace(WORK, spec=SPEC.model_copy(update={"image": image})), context)
    assert caught.value.code == "storage_corrupt"
    assert not cached.exists()
    assert left_over(context) == []


def test_image_is_fetched_for_the_generator_and_removed(context: StageContext) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    image = InputRef(sha256=hashlib.sha256(buffer.getvalue()).hexdigest(), media_type="image/png", name="red.png")
    context.storage.put_bytes(image.key, buffer.getvalue(), content_type="image/png")
    generate.run(replace(WORK, spec=SPEC.model_copy(update={"image": image})), context)
    assert left_over(context) == ["job.0.0.1.rgb"]


class CannotOffload:
    """A generator whose machine cannot do what the memory ladder asks for."""

    def generate(self, request: GenerationRequest, *_: object) -> GenerationResult:
        assert request.accelerated_by == on_rung(SPEC.acceleration, Rung.OFFLOADED)
        raise RefusedError("offload: it needs a GPU", code="acceleration_unavailable")


def test_a_rung_that_is_not_possible_is_too_little_memory_and_no_refusal(context: StageContext) -> None:
    with pytest.raises(OutOfMemoryError, match="on the rung offloaded, which is not possible here: offload: it needs"):
        generate.run(replace(WORK, memory_rung=Rung.OFFLOADED), replace(context, generator=CannotOffload()))
    assert left_over(context) == []
