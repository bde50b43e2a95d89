"""Runs any video pipeline of diffusers, by the name of its class: loaded once, run many times.

Frames become bytes by one rule, on the device: ``(x * 255).round().clamp(0, 255)`` in float32, ties to even, which
is what diffusers' own conversion to images does. Noise comes from a CPU generator, so that a seed means the same
noise on every device.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from pipeline import failpoints
from pipeline.acceleration import PLAIN, Acceleration
from pipeline.errors import FatalError, OutOfMemoryError, StageError
from pipeline.generators.accelerations.cache_states import cache_states, restore_cache_states
from pipeline.generators.accelerations.parallel import agree
from pipeline.generators.accelerations.per_clip import accelerated
from pipeline.generators.base import (
    NO_CHECKPOINTS,
    CheckpointReceiver,
    GenerationRequest,
    GenerationResult,
    Generator,
    HandOver,
    OnProgress,
    Phase,
    Progress,
)
from pipeline.generators.call_arguments import call_arguments
from pipeline.generators.continuing import continuation_of, continuing_pipeline, picture_arguments, read_frames
from pipeline.generators.denoising.checkpoint_file import CheckpointKeeper, CheckpointUnusableError, Identity
from pipeline.generators.denoising.checkpoint_tensors import ResumePoint, read_checkpoint, write_checkpoint
from pipeline.generators.denoising.numerics import Clock, numerics, peak, reset_peak, translated
from pipeline.generators.denoising.randomness import Randomness
from pipeline.generators.denoising.scheduler_hook import LoopWatch, watched_steps
from pipeline.generators.embeddings import EmbeddingCache
from pipeline.generators.frames_file import write_frames
from pipeline.generators.frames_out import as_bytes, to_uint8
from pipeline.generators.input_pictures import Pictures, read_pictures
from pipeline.generators.loras import Loras
from pipeline.generators.own_size import check_own_size
from pipeline.generators.read_pipeline import read_pipeline
from pipeline.generators.sound import sound_of, write_sound
from pipeline.generators.text_facts import text_facts
from pipeline.generators.warm_up import blank_pictures, smallest_clip
from pipeline.models.hub import model_folder
from pipeline.models.moving import move, weight_bytes
from pipeline.presets import Preset, get_preset
from pipeline.spec import JobSpec

LORA_BYTES = 2 * 1024**3


class DiffusersVideoGenerator(Generator):
    """A pipeline of diffusers in this process.

    ``cache_dir`` holds built models and pins; LoRAs that no clip uses are kept up to ``lora_bytes``.
    """

    def __init__(self, cache_dir: Path, *, lora_bytes: int = LORA_BYTES) -> None:
        self._cache_dir = cache_dir
        self._lora_bytes = lora_bytes
        self._loras: Loras | None = None
        self._preset: Preset | None = None
        self._revision = ""
        self._pipe: Any = None
        self._continuing: Any = None
        """What makes the segments after the first; the same pipeline where its class takes frames itself."""
        self._device = "cpu"
        self._how = PLAIN
        self._embeddings = EmbeddingCache()

    def load(self, preset_name: str, on_progress: OnProgress) -> None:
        self.load_preset(get_preset(preset_name), on_progress)

    def load_preset(self, preset: Preset, on_progress: OnProgress, how: Acceleration | None = None) -> None:
        """Load from disk only and warm up. ``how`` (the preset's own if not given) says what belongs to loading.

        Raises:
            RefusedError: codes ``model_missing`` (not pulled), ``pipeline_unknown`` (no such class),
                ``acceleration_unavailable`` and ``acceleration_unsupported``.
            OutOfMemoryError: it does not fit.
            FatalError: it cannot be loaded, or its warm-up fails.
        """
        self.unload()
        on_progress(Progress(Phase.LOAD, 0, 2))
        folder, revision = model_folder(preset, self._cache_dir)
        how = (preset.acceleration if how is None else how).at_load
        on_progress(Progress(Phase.LOAD, 1, 2))
        try:
            pipe, device = read_pipeline(preset, folder, how)
        except StageError:
            raise
        except Exception as error:
            raise translated(error, f"loading {preset.name}") from error
        self._pipe, self._device, self._preset, self._revision, self._how = pipe, device, preset, revision, how
        self._continuing = continuing_pipeline(preset, pipe)
        self._embeddings = EmbeddingCache()
        self._loras = Loras(pipe, self._lora_bytes)
        for pipeline in {id(pipe): pipe, id(self._continuing): self._continuing}.values():
            self._embeddings.attach(pipeline)
        on_progress(Progress(Phase.LOAD, 2, 2))
        try:
            self._warm_up(on_progress)
        except BaseException:
            self.unload()
            raise

    def make(
        self, request: GenerationRequest, on_progress: OnProgress, checkpoints: CheckpointReceiver = NO_CHECKPOINTS
    ) -> HandOver:
        """Make the clip; its frames wait on the device for being handed over. See ``Generator``."""
        if self._preset is None:
            raise FatalError("no model is loaded", code="model_not_loaded")
        if request.spec.preset != self._preset.name:
            raise FatalError(
                f"preset {request.spec.preset!r} was requested, {self._preset.name!r} is loaded",
                code="model_not_loaded",
            )
        acceleration = request.accelerated_by
        if acceleration.at_load != self._how:
            self.load_preset(self._preset, on_progress, acceleration)
        reset_peak(self._device)
        clock, hits_before = Clock(), self._embeddings.hits
        self._use_loras(request)
        if not self._preset.resumable:
            request = replace(request, resume_from=None, checkpoint_s=None)
        fingerprint = numerics(self._preset, self._device, acceleration, loras=bool(request.spec.loras))
        model = {"preset": self._preset.name, "version": self._preset.version, "revision": self._revision}
        keeper = CheckpointKeeper(request, Identity.of(request, model=model, numerics=fingerprint), checkpoints)
        run = self._resume_or_run(self._preset, request, keeper, on_progress, clock)
        # All that is said of the clip is looked at now: the next one may have begun when it is handed over.
        revision, most = self._revision, peak(self._device)
        facts = {
            "random_weights": self._preset.random_weights,
            "prompt_used": self._preset.takes_prompt,
            "acceleration": acceleration.given(),
            "prompt_known": self._embeddings.hits > hits_before,
            **text_facts(self._pipe if request.previous is None else self._continuing, self._preset, request),
            **keeper.facts,
        }

        def hand_over() -> GenerationResult:
            on_progress(Progress(Phase.HAND_OFF, 0, 1))
            sound = None
            if run.sound is not None:  # first: whoever follows the frames needs it with the first of them
                sound = write_sound(request.frames_path, run.sound, run.sample_rate)
            frames = as_bytes(run.frames[request.repeats :])
            digest = write_frames(request.frames_path, request.spec, frames, repeats=request.repeats)
            clock.mark("hand_off")
            on_progress(Progress(Phase.HAND_OFF, 1, 1))
            return GenerationResult(
                num_frames=request.new_frames,
                height=request.spec.height,
                width=request.spec.width,
                frames_sha256=digest,
                numerics=fingerprint,
                model_revision=revision,
                timings_s=clock.spans,
                peak_memory_bytes=most,
                sound=sound,
                facts=facts,
            )

        return hand_over

    def prepare(self, preset_name: str, prompt: str, negative_prompt: str | None) -> None:
        """Encode the prompt of a clip that may come, where that is a matter of the loaded text encoders alone."""
        # A model that moves parts of itself on each call must not be called outside of a clip.
        if self._preset is not None and self._preset.name == preset_name and self._how.offload is None:
            with torch.no_grad():
                self._embeddings.prepare(self._pipe, prompt, negative_prompt)

    def host_bytes(self) -> int | None:
        """Bytes of all weights; None where hooks or formats tie them to their device."""
        tied = (self._how.quantisation, self._how.offload, self._how.text_encoder_offload or None)
        if self._pipe is None or any(tied) or self._how.context_parallel > 1:
            return None
        return weight_bytes(self._pipe)

    def move_to_host(self) -> None:
        """Wait in the host's memory, warm as it is, with the embeddings and LoRAs that it has."""
        move(self._pipe, "cpu")
        self._collect()

    def is_current(self) -> bool:
        """Return whether what would be loaded from disk now is what is in memory."""
        return self._preset is not None and model_folder(self._preset, self._cache_dir)[1] == self._revision

    def resume(self, on_progress: OnProgress) -> None:
        """Back to the device, after ``move_to_host``.

        Raises:
            OutOfMemoryError: it does not fit any more.
        """
        on_progress(Progress(Phase.LOAD, 1, 2))
        try:
            move(self._pipe, self._device)
        except Exception as error:
            raise translated(error, "a model's way back from the host's memory") from error
        on_progress(Progress(Phase.LOAD, 2, 2))

    def unload(self) -> None:
        self._pipe, self._continuing, self._preset, self._loras = None, None, None, None
        self._embeddings = EmbeddingCache()
        self.free()

    def free(self) -> None:
        if self._loras is not None:
            self._loras.free()
        self._collect()

    def _collect(self) -> None:
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _use_loras(self, request: GenerationRequest) -> None:
        """Have the clip's LoRAs act, and no others."""
        if self._loras is None:
            return
        self._loras.use(request.spec.loras, request.loras)
        self._embeddings.variant = self._loras.on_text

    def _warm_up(self, on_progress: OnProgress) -> None:
        """The shortest, smallest legal clip of two steps: what a first run sets up must not fall to a job."""
        preset = self._preset
        if preset is None:
            return
        on_progress(Progress(Phase.WARM_UP, 0, 1))
        spec = smallest_clip(self._pipe, preset)
        blank = blank_pictures(self._pipe, preset, spec)

        def sign_of_life(*_: object) -> None:
            on_progress(Progress(Phase.WARM_UP, 0, 1))

        self._run(preset, spec, spec.prompt, blank, sign_of_life, sign_of_life, Clock())
        if preset.continuation is not None and self._continuing is not self._pipe:
            count = preset.continuation.frames
            longer = spec.model_copy(update={"num_frames": preset.frames.at_least(max(spec.num_frames, count + 1))})
            previous = [Image.new("RGB", (spec.width, spec.height))] * count
            self._run(preset, longer, spec.prompt, {}, sign_of_life, sign_of_life, Clock(), previous=previous)
        on_progress(Progress(Phase.WARM_UP, 1, 1))

    def _resume_or_run(
        self,
        preset: Preset,
        request: GenerationRequest,
        keeper: CheckpointKeeper,
        on_progress: OnProgress,
        clock: Clock,
    ) -> _PipelineOutput:
        """The frames, from the request's checkpoint where there is one that can be used."""
        pictures = read_pictures(request)

        spec = request.spec.model_copy(update={"acceleration": request.accelerated_by})
        previous = None
        if request.previous is not None:
            previous = read_frames(request.previous, width=spec.width, height=spec.height, count=request.repeats)

        def run(resume: ResumePoint | None) -> _PipelineOutput:
            def stepped(step: int, total: int, loop: LoopWatch, rng: Randomness) -> None:
                def write(path: Path, metadata: dict[str, str]) -> None:
                    caches = cache_states(self._pipe) if step < total else None  # after the last step no more is used
                    write_checkpoint(path, metadata, loop.state(), rng.states(), caches)

                def done() -> None:
                    failpoints.hit("gpu_memory", _memory_use("denoise", spec))
                    keeper.after_step(step, total, on_progress, write)
                    if step == total:
                        failpoints.hit("gpu_memory", _memory_use("decode", spec))

                agree(done, last=step == total)

            return self._run(
                preset, spec, request.prompt, pictures, on_progress, stepped, clock, resume, previous=previous
            )

        point = _resume_point(request, keeper, self._device)
        if point is not None:
            keeper.resumed(point.loop.step)
            try:
                return run(point)
            except _NotResumedError as error:
                keeper.refuse(str(error))
        return run(None)

    def _run(
        self,
        preset: Preset,
        spec: JobSpec,
        prompt: str,
        pictures: Pictures,
        on_progress: OnProgress,
        on_step: Callable[[int, int, LoopWatch, Randomness], None],
        clock: Clock,
        resume: ResumePoint | None = None,
        *,
        previous: list[Any] | None = None,
    ) -> _PipelineOutput:
        """Frames as a uint8 tensor F × H × W × 3 on the device, and the sound where the pipeline makes any.

        With ``previous`` (pictures) it goes on from them.
        """
        pipe = self._pipe if previous is None else self._continuing
        guider = getattr(pipe, "guider", None)
        conditioned: dict[str, Any] = {}
        if previous is not None:
            conditioned = picture_arguments(continuation_of(preset), previous)
            pictures = {"image": conditioned.pop("image", None)}
        two = pipe.config.boundary_ratio is not None if "boundary_ratio" in pipe.config else None
        arguments = call_arguments(
            pipe.__call__, preset, spec, prompt, pictures, has_guider=guider is not None, has_two_denoisers=two
        )
        arguments |= conditioned
        check_own_size(pipe, spec)
        if guider is not None:
            guider.guidance_scale = spec.guidance_scale
        rng = Randomness(spec.seed, self._device)
        begun = False

        def stepped(step: int, total: int) -> None:
            nonlocal begun
            if not begun:
                clock.mark("encode_text_and_first_step")
                if resume is not None:
                    rng.restore(resume.rng)
                    if step < total:
                        restore_cache_states(pipe, resume.caches)
                begun = True
            if step == total:
                clock.mark("denoise")
            on_step(step, total, loop, rng)
            if step == total:
                on_progress(Progress(Phase.DECODE, 0, 1))

        on_progress(Progress(Phase.ENCODE_TEXT, 0, 1))
        try:
            with (
                accelerated(pipe, spec.acceleration, steps=spec.num_inference_steps, device=self._device),
                rng,
                watched_steps(pipe.scheduler, stepped, resume.loop if resume else None) as loop,
            ):
                output = pipe(**arguments, generator=rng.generator, output_type="pt", return_dict=True)
                frames = to_uint8(output.frames[0], spec)
                sound, sample_rate = sound_of(output, pipe, spec)
        except StageError:
            raise
        except Exception as error:
            problem = translated(error, preset.pipeline_class)
            if resume is not None and not begun and not isinstance(problem, OutOfMemoryError):
                raise _NotResumedError(str(problem)) from error
            raise problem from error
        clock.mark("decode")
        on_progress(Progress(Phase.DECODE, 1, 1))
        return _PipelineOutput(frames, sound, sample_rate)


class _PipelineOutput(NamedTuple):
    """The output of one pipeline run: ``frames`` a tensor, ``sound`` an array of samples × channels or None."""

    frames: Any
    sound: Any
    sample_rate: int


def _memory_use(doing: str, spec: JobSpec) -> str:
    """Return what a failpoint can distinguish: the work, and what it does to need less memory for it."""
    tiled = "_tiled" if spec.acceleration.vae_tiling else ""
    return f"{doing}{tiled}{'_offloaded' if spec.acceleration.offload else ''}"


class _NotResumedError(Exception):
    """The clip's loop could not be taken up where the checkpoint left it."""


def _resume_point(request: GenerationRequest, keeper: CheckpointKeeper, device: str) -> ResumePoint | None:
    checkpoint = keeper.check()
    if checkpoint is None or request.resume_from is None:
        return None
    try:
        return read_checkpoint(request.resume_from, checkpoint, device)
    except CheckpointUnusableError as error:
        keeper.refuse(str(error))
        return None
