"""Reading weight files without running anything that is in them."""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import InputError, RefusedError
from pipeline.files.json_reader import read_json
from pipeline.scoring.models.vit import HEAD

State = dict[str, Tensor]

_UNREADABLE = (
    *(OSError, EOFError, LookupError, RuntimeError, ValueError, AttributeError, TypeError, StopIteration),
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, SafetensorError),
)
"""What damaged archives make their readers raise."""
_MAX_CONFIG = 1 << 20
_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def read_state(path: Path, *inside: str) -> State:
    """The tensors of a safetensors file, a PyTorch checkpoint or a TorchScript archive, by key, as float32.

    ``inside`` are keys that the tensors may lie under, such as "model"; a prefix "module." of all keys is dropped.

    Raises:
        RefusedError: code ``eval_weights_wrong``; it is none of these, or holds no tensors.
    """
    try:
        content: Any = _read(path)
    except _UNREADABLE as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise wrong(path, f"it cannot be read: {first}") from error
    for key in inside:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise wrong(path, "it holds no tensors by name")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def fill(model: nn.Module, state: State, path: Path, ignored: tuple[str, ...] = ()) -> None:
    """Give a model its weights: every one, and no others but ``ignored``. Raises RefusedError as ``read_state``."""
    try:
        report = model.load_state_dict({key: state[key] for key in state if key not in ignored}, strict=False)
    except RuntimeError as error:
        raise wrong(path, str(error).splitlines()[-1].strip()) from error
    if report.missing_keys or report.unexpected_keys:
        parts = [
            f"{name} {', '.join(keys[:3])}" + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            for name, keys in zip(("lacks", "has the unknown"), report, strict=True)
            if keys
        ]
        raise wrong(path, " and ".join(parts))


def size(state: State, key: str, path: Path, axis: int = 0) -> int:
    """Return how long a tensor is on an axis: models take their sizes from their weights. Raises as ``read_state``."""
    if key not in state or state[key].dim() <= axis:
        raise wrong(path, f"lacks {key}")
    return int(state[key].shape[axis])


def exactly(wanted: int, state: State, key: str, path: Path, axis: int = 0) -> int:
    """Return ``wanted``, which the tensor's length on an axis must be. Raises as ``read_state``."""
    length = size(state, key, path, axis)
    if length != wanted:
        raise wrong(path, f"{key} has {length} on axis {axis}; this model has {wanted}")
    return wanted


def same(one: int, other: int, what: str, path: Path) -> None:
    """Raises as ``read_state`` where two lengths differ that must be equal."""
    if one != other:
        raise wrong(path, f"{what} do not fit: {one} and {other}")


def square(count: int, key: str, path: Path) -> int:
    """Return the side of a square grid with ``count`` places. Raises as ``read_state`` where none is so large."""
    side = math.isqrt(max(count, 0))
    if side < 1 or side * side != count:
        raise wrong(path, f"{key} has {count} places beside the first, which do not make a square")
    return side


def heads(width: int, path: Path, *, hub: bool = False) -> int:
    """Return how many attention heads share ``width``: by ``config.json`` beside a hub's file, else ``HEAD`` wide each.

    Raises:
        RefusedError: code ``eval_weights_wrong``; ``config.json`` cannot be read, or the heads do not divide the width.
    """
    count, rule = width // HEAD, f"heads of {HEAD}"
    config = config_beside(path, "config.json") if hub else None
    stated_there = config is not None
    if config is not None:
        stated = config.get("num_attention_heads")
        if type(stated) is not int or stated < 1:
            raise wrong(path, f"config.json: num_attention_heads {stated!r:.40} is not a whole number above 0")
        count, rule = stated, f"{stated} heads, which config.json asks for"
    if count < 1 or width % count or (not stated_there and width % HEAD):
        raise wrong(path, f"its width {width} cannot be divided into {rule}")
    return count


def config_beside(path: Path, name: str) -> dict[str, Any] | None:
    """The object of a JSON file in the folder of a weight file; None where there is no such file.

    Raises:
        RefusedError: code ``eval_weights_wrong``; it is there and cannot be read, or is no object.
    """
    if not path.with_name(name).is_file():
        return None
    try:
        config = read_json(path.with_name(name), what=name, limit_bytes=_MAX_CONFIG)
    except InputError as error:
        raise wrong(path, f"{name} beside it cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise wrong(path, f"{name} beside it holds no object")
    return config


def depth(state: State, prefix: str, path: Path) -> int:
    """Return how many numbered blocks there are under ``prefix``. Raises as ``read_state``."""
    numbers = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    if not numbers or not all(number.isdigit() for number in numbers):
        raise wrong(path, f"lacks {prefix}0")
    return len(numbers)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("constants.pkl") for name in names):
                return _read_torchscript(archive)
    return torch.load(path, map_location="cpu", weights_only=True)


class _Module:
    """Stands for any TorchScript class: only its attributes matter."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _TorchScriptReader(pickle.Unpickler):
    """Builds tensors and modules of a TorchScript archive, and refuses every other object."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
        super().__init__(io.BytesIO(archive.read(f"{self._root}data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle":
            return lambda values, *_: values
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        data = self._archive.read(f"{self._root}data/{key}")
        return torch.frombuffer(bytearray(data), dtype=dtype, count=count)


def _tensor(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(shape, stride, offset)


def _read_torchscript(archive: zipfile.ZipFile) -> State:
    state: State = {}

    def collect(module: _Module, at: str) -> None:
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                state[f"{at}{name}"] = value
            elif isinstance(value, _Module):
                collect(value, f"{at}{name}.")

    collect(_TorchScriptReader(archive).load(), "")
    return state


def wrong(path: Path, why: str) -> RefusedError:
    """The error of a weight file, code ``eval_weights_wrong``."""
    return RefusedError(f"weights {path}: {why}", code="eval_weights_wrong")
