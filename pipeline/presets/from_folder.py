"""Derives a preset from a model folder that ``save_pretrained`` wrote.

Nothing is loaded: the files of configuration say all of it. What no file says is marked in the preset's own text.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.files.json_reader import read_json
from pipeline.files.safetensors_header import read_header
from pipeline.presets.signatures import CallSignature, call_signature
from pipeline.presets.user_file import INDEX, MAX_FILE_BYTES, class_of

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_DENOISERS = ("transformer", "unet")
_FPS, _STEPS, _FRAMES, _SIDE, _GUIDANCE = 16.0, 50, 49, 512, 5.0
"""Values where neither the model nor its class says one."""


def preset_text(folder: Path) -> str:
    """The preset's file for this folder.

    Raises:
        InputError: it is no diffusers folder of a video model, or its files do not tell the rules; each with its file.
    """
    pipeline_class = class_of(str(folder), "main")
    if pipeline_class is None:
        raise _wrong(folder / INDEX, "is not there or names no class: a folder that save_pretrained wrote has it")
    call = call_signature(pipeline_class)
    if call is None:
        raise _wrong(folder / INDEX, f"_class_name: the installed diffusers has no {pipeline_class}")
    if "num_frames" not in call.parameters:
        raise _wrong(folder / INDEX, f"_class_name: {pipeline_class} makes no videos: its call takes no num_frames")
    vae = _config(folder, "vae")
    temporal, spatial = _ratio(vae, "temporal"), _ratio(vae, "spatial")
    denoiser = next((_config(folder, name) for name in _DENOISERS if (folder / name).is_dir()), {})
    return _written(folder, pipeline_class, call, temporal, spatial * _patch(denoiser), denoiser, spatial)


def _written(
    folder: Path,
    pipeline_class: str,
    call: CallSignature,
    temporal: int,
    multiple: int,
    denoiser: Mapping[str, Any],
    spatial: int,
) -> str:
    offset = 1 if temporal > 1 else 0
    frames = _default(call, "num_frames", _FRAMES)
    frames = max(temporal + offset, (int(frames) - offset) // temporal * temporal + offset)
    sides = {side: _side(call, side, denoiser, spatial, multiple) for side in ("width", "height")}
    values = {
        "num_frames": frames,
        **sides,
        "fps": float(_default(call, "frame_rate", _default(call, "fps", _FPS))),
        "num_inference_steps": int(_default(call, "num_inference_steps", _STEPS)),
        "guidance_scale": float(_default(call, "guidance_scale", _GUIDANCE)),
    }
    return f"""\
# Written by `vgen models add`. The rules are the VAE's ratios and the patch of {pipeline_class}'s denoiser; the
# defaults are those of the class's call, and where it has none: {_FPS:g} fps, {_STEPS} steps, {_FRAMES} frames,
# {_SIDE} pixels, guidance {_GUIDANCE:g}. Put right here what the model's makers publish.
model = {json.dumps(str(folder))}
pipeline_class = {json.dumps(pipeline_class)}
workload = {json.dumps(_workload(call))}
dtype = {json.dumps(_dtype(folder))}

[frames]
multiple = {temporal}
offset = {offset}
minimum = {temporal + offset}
maximum = {max(frames, temporal + offset)}

[size]
multiple = {multiple}
minimum = {multiple}
maximum = {max(2 * max(sides.values()) // multiple, 1) * multiple}

[defaults]
""" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _ratio(vae: Mapping[str, Any], kind: str) -> int:
    """How many frames (``temporal``) or pixels of a side (``spatial``) one latent stands for."""
    for key in (f"{kind}_compression_ratio", f"scale_factor_{kind}"):
        if _counts(vae.get(key)):
            return int(vae[key])
    if isinstance(vae.get(f"{kind}_expansions"), list):
        return int(math.prod(vae[f"{kind}_expansions"]))
    scaling = vae.get("spatio_temporal_scaling")
    if isinstance(scaling, list):
        patch = vae.get("patch_size_t" if kind == "temporal" else "patch_size", 1)
        return int(patch) * int(2 ** sum(map(bool, scaling)))
    halved = vae.get("temperal_downsample")
    if isinstance(halved, list):
        return 1 << (sum(map(bool, halved)) if kind == "temporal" else len(halved))
    blocks = vae.get("block_out_channels")
    if not isinstance(blocks, list):
        raise _wrong(Path("vae/config.json"), f"tells no {kind} ratio; write the preset by hand (docs/models.md)")
    return 2 ** (len(blocks) - 1) if kind == "spatial" else 1


def _patch(denoiser: Mapping[str, Any]) -> int:
    """How many latents of a side the denoiser takes at once, so that a side must be a multiple."""
    patch = denoiser.get("patch_size", 1)
    if isinstance(patch, list) and patch:
        patch = patch[-1]
    if _counts(patch):
        blocks = denoiser.get("block_out_channels")  # a UNet's, which halves between them
        return int(patch) * (2 ** (len(blocks) - 1) if isinstance(blocks, list) else 1)
    return 1


def _side(call: CallSignature, side: str, denoiser: Mapping[str, Any], spatial: int, multiple: int) -> int:
    given = call.defaults.get(side)
    sample = denoiser.get(f"sample_{side}", denoiser.get("sample_size"))
    pixels = next((int(value) for value in (given, sample) if isinstance(value, int) and value > 0), _SIDE)
    pixels *= spatial if not _counts(given) and _counts(sample) else 1
    return max(1, pixels // multiple) * multiple


def _workload(call: CallSignature) -> str:
    if call.requires("video"):
        return "v2v"
    if "image" not in call.parameters:
        return "t2v"
    return "i2v" if call.requires("image") else "ti2v"


def _dtype(folder: Path) -> str:
    """The type of most of the denoiser's tensors; bfloat16 where its files do not tell."""
    types: Counter[str] = Counter()
    for part in _DENOISERS:
        for file in sorted((folder / part).glob("*.safetensors"))[:1]:
            types.update(read_header(file).dtypes.values())
    found = next((_DTYPES[name] for name, _ in types.most_common() if name in _DTYPES), None)
    return found or "bfloat16"


def _default(call: CallSignature, name: str, otherwise: float) -> float:
    value = call.defaults.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else otherwise


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    path = folder / part / "config.json"
    content = read_json(path, what="the model's configuration", limit_bytes=MAX_FILE_BYTES)
    if not isinstance(content, dict):
        raise _wrong(path, "is not an object")
    return content


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _wrong(path: Path, message: str) -> InputError:
    return InputError([Problem(message, str(path))])
