"""The sound of pipelines that make it (LTX-2): extracted, fitted to the clip's length, written raw."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.digests import sha256_hex
from pipeline.errors import FatalError, RetryableError
from pipeline.generators.base import RawSound
from pipeline.handoff import announce_sound, sound_path
from pipeline.spec import JobSpec

MAX_CHANNELS = 8
"""The most channels that AAC has layouts for."""


def sound_of(output: Any, pipe: Any, spec: JobSpec) -> tuple[Any, int]:
    """Samples × channels as float32 in [-1, 1], and samples a second; ``(None, 0)`` where the pipeline makes none.

    It is as long as all frames that were made, those that a segment repeats among them. Models make sound in steps of
    their own, so that its length is only about that: what is over is cut, what is missing is silence.

    Raises:
        FatalError: code ``sound_unusable``; values that are not finite, or a form that is not sound.
    """
    audio = getattr(output, "audio", None)
    if audio is None:
        return None, 0
    rate = int(pipe.vocoder.config.output_sampling_rate)
    waves = audio[0].float().cpu() if isinstance(audio, torch.Tensor) else torch.as_tensor(np.asarray(audio[0])).float()
    if waves.ndim == 1:
        waves = waves[None]
    if waves.ndim != 2 or not 0 < waves.shape[0] <= MAX_CHANNELS:
        raise FatalError(f"the sound has the shape {tuple(waves.shape)}, not channels × samples", code="sound_unusable")
    if not bool(torch.isfinite(waves).all()):
        raise FatalError("the sound has values that are not finite", code="sound_unusable")
    samples = np.zeros((round(spec.num_frames / spec.fps * rate), waves.shape[0]), dtype="<f4")
    heard = waves[:, : len(samples)].clamp(-1, 1).numpy().T
    samples[: len(heard)] = heard
    return samples, rate


def write_sound(frames_path: Path, samples: Any, sample_rate: int) -> RawSound:
    """Write the sound beside its frames, and before them: whoever follows the frames has it with the first one.

    Raises:
        RetryableError: code ``disk_full`` or ``handoff_unavailable``.
    """
    data = samples.tobytes()
    path = sound_path(frames_path)
    try:
        path.write_bytes(data)
        announce_sound(frames_path, sample_rate, samples.shape[1])
    except OSError as error:
        path.unlink(missing_ok=True)
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "handoff_unavailable"
        raise RetryableError(f"{path}: {error.strerror}", code=code) from error
    return RawSound(
        sample_rate=sample_rate, channels=samples.shape[1], num_samples=samples.shape[0], sha256=sha256_hex(data)
    )
