"""The messages between parent and child: one JSON object a line, each way. Both sides use these functions.

Commands: ``load``, ``generate``, ``calibrate``, ``prepare`` (a hint, which has no answer), ``stop`` (with ``keep``:
leave a checkpoint), ``exit``. Events: ``progress``, ``checkpoint``, ``unusable``, ``ready``, ``made``, ``result``,
``error``. After ``made`` the next command may be sent, whose events then come between those of the clip's hand-over.
Every command but ``exit`` has an ``id``, and the events it causes carry it, so that a late one is never taken for
another's.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.acceleration import Acceleration
from pipeline.errors import (
    CrashError,
    FailureClass,
    FatalError,
    OutOfMemoryError,
    RefusedError,
    RetryableError,
    StageError,
    StoppedError,
)
from pipeline.generators.base import GenerationRequest, GenerationResult, Phase, Progress, RawSound, SavedCheckpoint
from pipeline.spec import JobSpec

_STOPPED = "stopped"
_BY_CLASS: dict[str, type[StageError]] = {
    FailureClass.RETRYABLE.value: RetryableError,
    FailureClass.REFUSED.value: RefusedError,
    FailureClass.OUT_OF_MEMORY.value: OutOfMemoryError,
    FailureClass.CRASH.value: CrashError,
    FailureClass.FATAL.value: FatalError,
    _STOPPED: StoppedError,
}


def request_to_wire(request: GenerationRequest) -> dict[str, Any]:
    return {
        "spec": request.spec.model_dump(mode="json"),
        "prompt": request.prompt,
        "frames_path": str(request.frames_path),
        "image": None if request.image is None else str(request.image),
        "last_image": None if request.last_image is None else str(request.last_image),
        "video": None if request.video is None else str(request.video),
        "reference_images": [str(path) for path in request.reference_images],
        "loras": [str(path) for path in request.loras],
        "resume_from": None if request.resume_from is None else str(request.resume_from),
        "checkpoint_s": request.checkpoint_s,
        "previous": None if request.previous is None else str(request.previous),
        "repeats": request.repeats,
        "acceleration": None if request.acceleration is None else request.acceleration.model_dump(mode="json"),
    }


def request_from_wire(data: dict[str, Any]) -> GenerationRequest:
    return GenerationRequest(
        spec=JobSpec.model_validate(data["spec"]),
        prompt=data["prompt"],
        frames_path=Path(data["frames_path"]),
        image=None if data["image"] is None else Path(data["image"]),
        last_image=None if data["last_image"] is None else Path(data["last_image"]),
        video=None if data["video"] is None else Path(data["video"]),
        reference_images=tuple(Path(path) for path in data["reference_images"]),
        loras=tuple(Path(path) for path in data["loras"]),
        resume_from=None if data["resume_from"] is None else Path(data["resume_from"]),
        checkpoint_s=data["checkpoint_s"],
        previous=None if data["previous"] is None else Path(data["previous"]),
        repeats=data["repeats"],
        acceleration=None if data["acceleration"] is None else Acceleration.model_validate(data["acceleration"]),
    )


def checkpoint_to_wire(checkpoint: SavedCheckpoint) -> dict[str, Any]:
    return {**asdict(checkpoint), "path": str(checkpoint.path)}


def checkpoint_from_wire(data: dict[str, Any]) -> SavedCheckpoint:
    return SavedCheckpoint(**{**data, "path": Path(data["path"])})


def result_to_wire(result: GenerationResult) -> dict[str, Any]:
    return asdict(result)


def result_from_wire(data: dict[str, Any]) -> GenerationResult:
    sound = data.get("sound")
    return GenerationResult(**{**data, "sound": None if sound is None else RawSound(**sound)})


def progress_to_wire(progress: Progress) -> dict[str, Any]:
    return {"phase": progress.phase.value, "step": progress.step, "total": progress.total}


def progress_from_wire(data: dict[str, Any]) -> Progress:
    return Progress(Phase(data["phase"]), int(data["step"]), int(data["total"]))


def error_to_wire(error: Exception) -> dict[str, Any]:
    """Whatever is not a StageError is a bug, reported with its type."""
    if isinstance(error, StoppedError):
        kind = _STOPPED
    elif isinstance(error, StageError):
        kind = error.failure_class.value
    else:
        return {
            "kind": FailureClass.FATAL.value,
            "code": FatalError.code,
            "message": f"{type(error).__name__}: {error}",
        }
    return {"kind": kind, "code": error.code, "message": str(error)}


def error_from_wire(data: dict[str, Any]) -> StageError:
    return _BY_CLASS[data["kind"]](data["message"], code=data["code"])
