"""The sidecar: everything that is needed to make a clip again, as one JSON object. docs/sidecar.md describes it."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.encoding.ffmpeg import ffmpeg_version
from pipeline.outputs import GenerateFacts, GenerateOutput, StageOutputs
from pipeline.presets.preset import Preset
from pipeline.seeds import segment_seed
from pipeline.spec import EncodeOptions, JobSpec

SCHEMA = "vgen.sidecar/1"
RANDOM_WEIGHTS = "weights are random"
_LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors"),
    *("numpy", "av", "imageio-ffmpeg", "pillow"),
)
_TITLE_LENGTH = 500
"""Characters of a prompt that go into the container's title; the sidecar has all of it."""

_Json = dict[str, Any]


def build_sidecar(
    *,
    job_id: str,
    batch_id: str,
    line: int,
    roll: int,
    segment: int,
    spec: JobSpec,
    preset: Preset,
    encode: EncodeOptions,
    outputs: StageOutputs,
    video: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
    segments: Sequence[GenerateOutput] | None = None,
) -> _Json:
    """The sidecar of one clip.

    ``video`` is the probe's answer; ``files`` has ``sha256`` and ``size`` (bytes) by kind, ``video`` among them.
    ``segments`` is what generate recorded of each, where there are several; ``outputs`` is of the whole clip then.
    """
    generate = outputs.generated
    return {
        "schema": SCHEMA,
        "job_id": job_id,
        "batch_id": batch_id,
        "line": line,
        "roll": roll,
        "segment": segment,
        "request": spec.model_dump(mode="json"),
        "prompt_used": generate.prompt,
        "text": _text(generate.facts),
        "enhance": outputs.enhance and outputs.enhance.as_json(),
        "safety": outputs.screen and outputs.screen.as_json(),
        "seed": spec.seed,
        "preset": {
            "name": preset.name,
            "version": preset.version,
            "digest": preset.digest,
            "values": preset.model_dump(mode="json") if spec.preset_digest else None,
        },
        "model": {
            "repo": preset.repo,
            "revision": generate.model_revision,
            "pipeline_class": preset.pipeline_class,
            "random_weights": preset.random_weights,
            "notice": RANDOM_WEIGHTS if preset.random_weights else None,
        },
        "numerics": generate.numerics,
        "acceleration": generate.facts.acceleration,
        "loras": [
            {"name": lora.file.name, "sha256": lora.file.sha256, **lora.model_dump(mode="json", exclude={"file"})}
            for lora in spec.loras
        ],
        "memory_rung": generate.facts.memory_rung,
        "gpu_type": generate.gpu_type,
        "timings_s": generate.timings_s,
        "peak_memory_bytes": generate.peak_memory_bytes,
        "denoising": _denoising(generate.facts),
        "frames": {
            "sha256": generate.frames_sha256,
            "num_frames": generate.num_frames,
            "height": generate.height,
            "width": generate.width,
        },
        "segments": None if segments is None else [_segment(k, spec, output) for k, output in enumerate(segments)],
        **({} if generate.sound is None else {"sound": generate.sound.as_json()}),
        "encode": encode.model_dump(mode="json"),
        "video": dict(video),
        "files": {kind: dict(facts) for kind, facts in files.items()},
        "software": software_versions(),
    }


def _segment(number: int, spec: JobSpec, generate: GenerateOutput) -> _Json:
    same = ("frames_sha256", "num_frames", "numerics", "model_revision", "gpu_type", "timings_s", "peak_memory_bytes")
    return {
        "segment": number,
        "prompt_used": generate.prompt,
        "seed": segment_seed(spec.seed, number),
        **{name: getattr(generate, name) for name in same},
        "text": _text(generate.facts),
        "denoising": _denoising(generate.facts),
    }


def _text(facts: GenerateFacts) -> _Json:
    """Return what the model read of the texts, where that was not all."""
    return facts.model_dump(include={"tokens_read", "negative_prompt_used"})


def _denoising(facts: GenerateFacts) -> _Json:
    return {
        "steps": facts.denoise_steps,
        "resumed_from_step": facts.resumed_from_step,
        "checkpoint_unusable": facts.checkpoint_unusable,
    }


def container_metadata(job_id: str, spec: JobSpec, preset: Preset, prompt: str) -> dict[str, str]:
    """Return the video file's tags: nothing that differs between two attempts, such as a time or a host."""
    comment: _Json = {"job": job_id, "seed": spec.seed, "preset": f"{preset.name}@{preset.version}"}
    if preset.random_weights:
        comment["notice"] = RANDOM_WEIGHTS
    return {"title": prompt[:_TITLE_LENGTH], "comment": json.dumps(comment, sort_keys=True)}


@lru_cache(maxsize=1)
def software_versions() -> dict[str, str | None]:
    """Versions of vgen, FFmpeg and the libraries, where the clip was encoded; None is not installed."""
    versions: dict[str, str | None] = {"vgen": _version("vgen"), "ffmpeg": ffmpeg_version()}
    return versions | {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
