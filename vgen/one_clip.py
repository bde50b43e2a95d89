"""The stages of one clip in turn, in this process and its generator's, without rows."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import FatalError, InputError, Problem, RefusedError
from pipeline.files.drafts import draft_of
from pipeline.generators.base import OnProgress
from pipeline.handoff import Handoff
from pipeline.outputs import GenerateOutput, StageOutputs
from pipeline.prompts import PlannedJob, Submission
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, EncodeOptions, JobSpec
from pipeline.stages import encode, enhance, generate, screen
from pipeline.states import Stage
from pipeline.storage import FolderStorage
from pipeline.storage.inputs import put_input
from pipeline.wiring import StageModels
from pipeline.work import ContinuationRef, GenerationRunner, Outcome, StageContext, StepWork
from vgen.result import VideoResult


@dataclass(frozen=True, slots=True)
class Output:
    """The place of the clip: an MP4, and its sidecar beside it under the same name with ``.json``."""

    video: Path
    overwrite: bool = False
    in_config: bool = False
    """Whether a configuration names it: mistakes are told in the words of its keys, not of Python's arguments."""

    @property
    def sidecar(self) -> Path:
        return self.video.with_suffix(".json")

    def check(self, *, with_sidecar: bool = True) -> None:
        """
        Raises:
            InputError: it is not a file's name that can be written.
        """
        field, consent = (
            ("output.path", "set output.overwrite") if self.in_config else ("output", "pass overwrite=True")
        )
        if self.video.suffix != ".mp4":
            raise InputError([Problem(f"{str(self.video)!r} does not end in .mp4", field=field)])
        if not self.video.absolute().parent.is_dir():
            raise InputError([Problem(f"{str(self.video.parent)!r} is not a folder", field=field)])
        for path in (self.video, self.sidecar) if with_sidecar else (self.video,):
            if path.exists() and not self.overwrite:
                raise InputError([Problem(f"{str(path)!r} exists; {consent} to write over it", field=field)])


@dataclass(frozen=True, slots=True)
class ClipServices:
    """The objects that a clip is made with."""

    settings: Settings
    models: StageModels
    generator: GenerationRunner
    gpu_type: str
    on_progress: OnProgress
    check: Callable[[], None]


def make(
    job: PlannedJob, submission: Submission, services: ClipServices, output: Output | None, *, with_frames: bool
) -> VideoResult:
    """Enhance, screen and generate the clip, and encode it where there is an output. Nothing else is left behind.

    Raises:
        RefusedError: code ``prompt_unsafe``; the prompt is blocked, or the safety policy asks for a person.
        StageError: what the stages raise.
    """
    with tempfile.TemporaryDirectory(prefix="vgen-clip-") as folder:
        context = _context(Path(folder), submission, services)
        outputs = _prepared(job, submission, context)
        begun = time.monotonic()
        generated = generate.run(_work(job, submission, services.settings, Stage.GENERATE, outputs), context).output
        seconds = time.monotonic() - begun
        outputs = replace(outputs, generate=generated)
        frames = _frames(generated) if with_frames else None
        sidecar = None
        if output is not None:
            encoded = encode.run(_work(job, submission, services.settings, Stage.ENCODE, outputs), context).output
            sidecar = json.loads(context.storage.read_bytes(encoded.file("sidecar").key))
            for kind, path in (("video", output.video), ("sidecar", output.sidecar)):
                _put(context, encoded.file(kind).key, path)
    return _result(job.spec, generated, seconds, output, sidecar, frames)


def _result(
    spec: JobSpec,
    generated: GenerateOutput,
    seconds: float,
    output: Output | None,
    sidecar: dict[str, Any] | None,
    frames: Any,
) -> VideoResult:
    return VideoResult(
        prompt=spec.prompt,
        prompt_used=generated.prompt,
        seed=spec.seed,
        preset=spec.preset,
        width=spec.width,
        height=spec.height,
        num_frames=generated.num_frames,
        fps=spec.fps,
        frames_sha256=generated.frames_sha256,
        numerics=generated.numerics,
        model_revision=generated.model_revision,
        timings_s=generated.timings_s,
        generation_time_s=seconds,
        peak_memory_bytes=generated.peak_memory_bytes,
        video_path=None if output is None else output.video,
        sidecar_path=None if output is None else output.sidecar,
        sidecar=sidecar,
        frames=frames,
    )


def make_segment(
    job: PlannedJob,
    submission: Submission,
    services: ClipServices,
    folder: Path,
    previous: ContinuationRef | None,
    seam_frames: int,
) -> tuple[VideoResult, ContinuationRef | None]:
    """Make the frames of a video's next segment, which goes on from ``previous``; what the one after it goes on from.

    ``folder`` keeps what lies between two segments. The result has the frames that it adds: of a later segment without
    the ``seam_frames`` first ones, which repeat the last of the one before.

    Raises:
        RefusedError, StageError: as ``make``.
    """
    changes = {"seam_frames": seam_frames, "extends": None if previous is None else "the segment before"}
    spec = job.spec.model_copy(update=changes if previous is None else {**changes, "image": None, "last_image": None})
    job = replace(job, spec=spec)
    context = _context(folder, submission, services)
    outputs = _prepared(job, submission, context)
    work = _work(job, submission, services.settings, Stage.GENERATE, outputs)
    options = work.options.model_copy(update={"session": "stream"})  # the last frames are kept for the next segment
    begun = time.monotonic()
    made = generate.run(replace(work, options=options, continuation=previous), context)
    seconds = time.monotonic() - begun
    frames = _frames(made.output)
    context.handoff.free(Path(made.output.frames_path))
    return _result(spec, made.output, seconds, None, None, frames), made.continuation


def _context(folder: Path, submission: Submission, services: ClipServices) -> StageContext:
    storage = FolderStorage(folder / "storage")
    for item in submission.inputs.values():
        put_input(storage, item)
    return StageContext(
        settings=services.settings,
        storage=storage,
        handoff=Handoff.open(folder / "handoff", services.settings.handoff_bytes),
        models=services.models,
        on_progress=services.on_progress,
        check=services.check,
        generator=services.generator,
        gpu_type=services.gpu_type,
    )


def _prepared(job: PlannedJob, submission: Submission, context: StageContext) -> StageOutputs:
    enhanced = enhance.run(_work(job, submission, context.settings, Stage.ENHANCE, StageOutputs()), context)
    outputs = StageOutputs(enhance=enhanced.output)
    screened = screen.run(_work(job, submission, context.settings, Stage.SCREEN, outputs), context)
    if screened.outcome in (Outcome.BLOCKED, Outcome.HELD):
        verdict = screened.output
        raise RefusedError(
            f"prompt: the classifier calls it {verdict.label!r} ({verdict.score}; safety policy {verdict.policy})",
            code="prompt_unsafe",
        )
    return replace(outputs, screen=screened.output)


def _work(job: PlannedJob, submission: Submission, settings: Settings, stage: Stage, outputs: StageOutputs) -> StepWork:
    options = {name: getattr(settings.encode, name) for name in EncodeOptions.model_fields}
    # Named by the request, so that the same one gives the same file.
    batch_id = submission.fingerprint[:13]
    return StepWork(
        job_id=f"{batch_id}-000000",
        batch_id=batch_id,
        line=job.line,
        roll=1,
        segment=0,
        stage=stage,
        attempt=1,
        spec=job.spec,
        options=BatchOptions(safety_policy=settings.safety.policy, encode=EncodeOptions.model_validate(options)),
        outputs=outputs,
    )


def _frames(generated: GenerateOutput) -> Any:
    import numpy as np  # noqa: PLC0415 - only where frames are asked for

    shape = (generated.num_frames, generated.height, generated.width, 3)
    frames = np.fromfile(generated.frames_path, dtype=np.uint8)
    if frames.size != np.prod(shape):
        raise FatalError(f"the frames are {frames.size} bytes, not {shape}", code="frames_mismatch")
    return frames.reshape(shape)


def _put(context: StageContext, key: str, path: Path) -> None:
    """Whole or not at all: what is at ``path`` is replaced when the new file is complete."""
    with draft_of(path.absolute()) as draft:
        context.storage.download(key, draft)
