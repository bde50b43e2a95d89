"""The generate stage: from a prompt to raw frames in the hand-off directory."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.encoder_texts import prompt_for
from pipeline.errors import FatalError, NotFoundError, OutOfMemoryError, RefusedError, RetryableError, StoppedError
from pipeline.files.digests import file_sha256
from pipeline.generators.base import GenerationRequest, GenerationResult
from pipeline.handoff import count_frames
from pipeline.outputs import GenerateFacts, GenerateOutput, SoundOutput
from pipeline.policy.memory_ladder import Rung, on_rung
from pipeline.presets import load_library
from pipeline.seeds import segment_seed
from pipeline.spec import InputRef, JobSpec
from pipeline.stages import ahead
from pipeline.stages.checkpoint_upload import ClipCheckpoints
from pipeline.stages.continuation import fetch_last_frames, keep_last_frames
from pipeline.stages.lora_cache import fetch_lora
from pipeline.work import GenerationRunner, StageContext, StageResult, StepWork

CHANNELS = 3
_ACCELERATION_REFUSED = frozenset({"acceleration_unsupported", "acceleration_unavailable"})


def run(work: StepWork, context: StageContext) -> StageResult[GenerateOutput]:
    """Make the clip's frames; they stay in the hand-off directory for the encode stage of the same host.

    Goes on from ``work.checkpoint`` where that can be used, and keeps checkpoints of its own (see
    ``pipeline.stages.checkpoint_upload``). The final one is stored before this returns.

    Raises:
        RetryableError: the hand-off directory is full, or the store that has an input cannot be reached.
        StageError: code ``continuation_lost``; what the segment goes on from is gone.
        RefusedError: code ``input_missing``, the input image is not in the store; or what the generator refuses.
        StageError: what the generator raises; nothing is left in the hand-off directory then.
    """
    if context.generator is None:
        raise FatalError("this worker has no generator", code="generator_missing")
    spec = segment_spec(work)
    prompt = prompt_of(work)
    repeats = work.spec.seam_frames if work.spec.continues(work.segment) else 0
    frames = context.handoff.frames_path(work.job_id, work.roll, work.segment, work.attempt)
    checkpoints = ClipCheckpoints(work, context)
    try:
        size = (spec.num_frames - repeats) * spec.height * spec.width * CHANNELS
        context.handoff.reserve(frames, size, context.reservation)
        if work.options.session is not None:
            count_frames(frames)
        inputs = _fetch_inputs(spec, frames, context)
        loras = tuple(fetch_lora(ref, context.storage, context.settings) for ref in spec.loras)
        previous = fetch_last_frames(work, context, frames.with_suffix(".previous")) if repeats else None
        resume_from = checkpoints.fetch(frames.with_suffix(".resume"))
        context.check()
        request = GenerationRequest(
            spec=spec,
            prompt=prompt,
            frames_path=frames,
            **inputs.fields,
            loras=loras,
            resume_from=resume_from,
            checkpoint_s=context.settings.worker.checkpoint_s if checkpoints.wanted else None,
            previous=previous,
            repeats=repeats,
            acceleration=on_rung(spec.acceleration, work.memory_rung),
        )
        result = _generate(context.generator, request, context, checkpoints, work.memory_rung)
        facts = {**result.facts, **checkpoints.facts, "memory_rung": work.memory_rung.name.lower()}
        output = _output(result, prompt, frames, context, facts)
        count = _frames_left(work, context)
        state = keep_last_frames(work, context, frames, output, count) if count else None
        for used in (*inputs.paths, previous, resume_from):
            if used is not None:
                used.unlink(missing_ok=True)
    except BaseException:
        context.handoff.free(frames)
        raise
    return StageResult(output, continuation=state)


def _frames_left(work: StepWork, context: StageContext) -> int:
    """How many of its last frames another segment goes on from; 0 where nobody waits for them now.

    A clip's last segment leaves its frames when it is encoded. The next clip of a session waits for them.
    """
    if work.segment < work.spec.segments - 1:
        return work.spec.seam_frames
    if work.options.session is None:
        return 0
    preset = load_library(context.settings.effective_presets_dir).pinned(work.spec.preset, work.spec.preset_digest)
    count = 0 if preset.continuation is None else preset.continuation.frames
    return count if count <= work.spec.frames_of(work.segment) else 0


def _generate(
    generator: GenerationRunner,
    request: GenerationRequest,
    context: StageContext,
    checkpoints: ClipCheckpoints,
    rung: Rung,
) -> GenerationResult:
    """Make the clip; when this returns or raises, what is worth keeping of it is stored."""
    try:
        result = generator.generate(request, context.on_progress, checkpoints, context.on_made)
    except StoppedError as stop:
        if stop.keep:
            checkpoints.finish()
        else:
            checkpoints.abandon()
        raise
    except RefusedError as refused:
        checkpoints.finish()
        if rung < Rung.TILED or refused.code not in _ACCELERATION_REFUSED:
            raise
        # Not what the job asked for, but what the ladder put on: the next rung is tried.
        raise OutOfMemoryError(f"on the rung {rung.name.lower()}, which is not possible here: {refused}") from refused
    except BaseException:
        checkpoints.finish()  # what an attempt that failed has saved, the next one goes on from
        raise
    checkpoints.finish()
    return result


def segment_spec(work: StepWork) -> JobSpec:
    """The segment as a clip of its own: its seed, and an image only where the clip begins."""
    if work.spec.segments == 1 and work.spec.extends is None:
        return work.spec
    return work.spec.model_copy(
        update={
            "seed": segment_seed(work.spec.seed, work.segment),
            "image": None if work.spec.continues(work.segment) else work.spec.image,
            "segments": 1,
            "segment_prompts": (),
            "auto_extend": False,
        }
    )


def prompt_of(work: StepWork) -> str:
    """The prompt that the step's segment is generated from."""
    return prompt_for(work.spec, work.outputs.enhance, work.segment)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The job's inputs on this host: by field of the request, and all of them."""

    fields: dict[str, Any]
    paths: list[Path]


def _fetch_inputs(spec: JobSpec, frames: Path, context: StageContext) -> _Inputs:
    """Every input beside the frames, under their stem, so that they are freed with them."""
    inputs = _Inputs({}, [])

    def fetch(field: str, ref: InputRef) -> Path:
        local = frames.with_suffix(f".input{len(inputs.paths)}")
        inputs.paths.append(local)
        try:
            if not ahead.take_prefetched(ref, local, context.settings):
                context.storage.download(ref.key, local)
                if (digest := file_sha256(local, context.check)) != ref.sha256:
                    raise RetryableError(f"{field}: {ref.key} came with the sha256 {digest}", code="storage_corrupt")
        except NotFoundError as error:
            raise RefusedError(
                f"{field}: {ref.name!r} ({ref.key}) is not in the store", code="input_missing"
            ) from error
        return local

    for field in ("image", "last_image", "video"):
        ref = getattr(spec, field)
        if ref is not None:
            inputs.fields[field] = fetch(field, ref)
    if spec.reference_images:
        inputs.fields["reference_images"] = tuple(fetch("reference_images", ref) for ref in spec.reference_images)
    return inputs


def _output(
    result: GenerationResult, prompt: str, frames: Path, context: StageContext, facts: dict[str, Any]
) -> GenerateOutput:
    sound = {} if result.sound is None else {"sound": SoundOutput(**asdict(result.sound))}
    return GenerateOutput(
        frames_sha256=result.frames_sha256,
        frames_path=str(frames),
        handoff_id=context.handoff.id,
        num_frames=result.num_frames,
        height=result.height,
        width=result.width,
        prompt=prompt,
        numerics=result.numerics,
        model_revision=result.model_revision,
        timings_s=result.timings_s,
        peak_memory_bytes=result.peak_memory_bytes,
        gpu_type=context.gpu_type,
        facts=GenerateFacts(**facts),
        **sound,
    )
