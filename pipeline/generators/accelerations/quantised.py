"""Quantised weights of the denoiser: arguments for the pipeline's ``from_pretrained``."""

import json
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch

from pipeline.acceleration import GGUF
from pipeline.errors import RefusedError
from pipeline.files.digests import file_sha256
from pipeline.generators.accelerations.refusals import unavailable
from pipeline.models.gguf_header import check_gguf
from pipeline.models.strict_loading import strict_single_file

_DENOISERS = ("transformer", "transformer_2", "unet")
_TORCHAO = {
    "torchao-int8": "Int8WeightOnlyConfig",
    "torchao-int4": "Int4WeightOnlyConfig",
    "torchao-float8": "Float8WeightOnlyConfig",
}
_GPU_ONLY = frozenset({"torchao-int4", "bitsandbytes-int8", "bitsandbytes-nf4"})
"""bitsandbytes computes on a CPU too, but diffusers' quantiser for it refuses one (``bnb_quantizer.py``);
torchao's int4 kernels are CUDA's."""
_INSTEAD = "layerwise_casting and offload save memory without it"


def arguments(quantisation: str, folder: Path, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` is given for the pipeline in the folder.

    Raises:
        RefusedError: codes ``acceleration_unavailable`` and ``acceleration_unsupported``.
    """
    package = "gguf" if quantisation.startswith(GGUF) else quantisation.partition("-")[0]
    if device == "cpu" and quantisation in _GPU_ONLY:
        raise unavailable("quantisation", f"{quantisation} needs a CUDA GPU to load with diffusers; {_INSTEAD}")
    if find_spec(package) is None:
        raise unavailable("quantisation", f"{quantisation} needs the package {package}, not installed; {_INSTEAD}")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    names = [name for name in _DENOISERS if (index.get(name) or [None])[0] is not None]
    if package == "gguf":
        return {names[0]: _from_gguf(Path(quantisation.removeprefix(GGUF)), folder, names, index, dtype)}
    config = _torchao(quantisation) if package == "torchao" else _bitsandbytes(quantisation, dtype)
    mapping = dict.fromkeys(names, config)
    return {"quantization_config": diffusers.PipelineQuantizationConfig(quant_mapping=mapping)}


def numerics(quantisation: str | None) -> str | None:
    """The option with what else its pixels depend on: the package's version, a file's digest."""
    if quantisation is None:
        return None
    if quantisation.startswith(GGUF):
        path = Path(quantisation.removeprefix(GGUF))
        stat = path.stat()
        return f"gguf {version('gguf')} sha256:{_digest(path, stat.st_mtime_ns, stat.st_size)}"
    return f"{quantisation} {version(quantisation.partition('-')[0])}"


def _torchao(quantisation: str) -> Any:
    kind = getattr(import_module("torchao.quantization"), _TORCHAO[quantisation])
    return diffusers.TorchAoConfig(kind())


def _bitsandbytes(quantisation: str, dtype: torch.dtype) -> Any:
    if quantisation == "bitsandbytes-int8":
        return diffusers.BitsAndBytesConfig(load_in_8bit=True)
    return diffusers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )


def _from_gguf(file: Path, folder: Path, names: list[str], index: dict[str, Any], dtype: torch.dtype) -> Any:
    if len(names) > 1:
        raise RefusedError(
            f"quantisation: {file} holds one denoiser, and the model in {folder} has {len(names)}; use torchao-int8",
            code="acceleration_unsupported",
        )
    if not file.is_file():
        raise unavailable("quantisation", f"there is no file {file}; {_INSTEAD}")
    cls = getattr(diffusers, index[names[0]][1])
    if not hasattr(cls, "from_single_file"):
        raise RefusedError(
            f"quantisation: {cls.__name__} cannot be read from a single file; use torchao-int8",
            code="acceleration_unsupported",
        )
    try:
        check_gguf(file)
        with strict_single_file(str(file)):
            return cls.from_single_file(
                str(file),
                quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
                config=str(folder),
                subfolder=names[0],
                torch_dtype=dtype,
                local_files_only=True,
            )
    except (ValueError, KeyError, IndexError, OSError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise RefusedError(
            f"quantisation: {file} cannot be read as a {cls.__name__}: {error}", code="acceleration_unsupported"
        ) from error


@lru_cache(maxsize=8)
def _digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return file_sha256(path)
