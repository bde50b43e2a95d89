"""Checks that a model folder is complete, by the headers of its files; no library is loaded, no tensor read.

What is looked at is what the loaders would read: the index, each component's configuration and its weights.
"""

import json
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files.safetensors_header import Header, check_kind, read_header
from pipeline.presets import Preset

INDEX = "model_index.json"
_MAX_JSON_BYTES = 64 * 1024 * 1024
_SHOWN = 4
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")
_CONFIGS = ("tokenizer_config.json", "scheduler_config.json", "preprocessor_config.json", "processor_config.json")
"""Each belongs to a component that has no weights."""
_VOCABULARIES = (
    "tokenizer.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "merges.txt",
    "vocab.txt",
)
"""A tokenizer's files that are no small JSON."""
_LAYERS = re.compile(r"layers|blocks|depth")
_ALWAYS_LAYERS = 1000
_STEMS = {"transformers": ("model", "pytorch_model")}
_DIFFUSERS_STEM = ("diffusion_pytorch_model",)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one component, as their headers describe them."""

    headers: dict[Path, Header] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, by name."""
        return {name: shape for header in self.headers.values() for name, shape in header.shapes.items()}


def folder_problems(folder: Path, *, half: bool = False) -> list[str]:
    """A sentence on everything that is missing or damaged; ``half`` where files of half precision are preferred.

    Time is that of reading the headers, some kilobytes a file.
    """
    try:
        components = read_index(folder)
    except (OSError, ValueError) as error:
        return [f"{folder / INDEX} cannot be read: {_first_line(error)}"]
    problems: list[str] = []
    variant = "fp16" if half and any(folder.glob("*/*.fp16.safetensors")) else None
    for name, (library, _) in components.items():
        problems += [f"{name}: {sentence}" for sentence in _component_problems(folder / name, library, variant)]
    return problems


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each component that the pipeline has.

    Raises:
        OSError, ValueError: it cannot be read, or says what no pipeline's index says.
    """
    index = _read_json(folder / INDEX)
    if not isinstance(index.get("_class_name", ""), str):
        raise ValueError("_class_name names code in the model's folder, which is never run")
    components: dict[str, tuple[str, str]] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2 or not all(item is None or isinstance(item, str) for item in value):
            raise ValueError(f"{name[:80]!r} is not a pair of library and class")
        if value[0] is None or value[1] is None:
            continue
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is not a valid name of a component")
        components[name] = (value[0], value[1])
    return components


def index_value(folder: Path, key: str, absent: Any, *, file: str = INDEX) -> Any:
    """One value of the index, or of another JSON file; ``absent`` where there is none, or it cannot be read."""
    try:
        return _read_json(folder / file).get(key, absent)
    except (OSError, ValueError):
        return absent


def read_weights(part: Path, library: str, variant: str | None = None) -> Weights:
    """The headers of the files that the loader of this component reads."""
    stems = _STEMS.get(library, _DIFFUSERS_STEM)
    index = _index_file(part, stems, variant)
    single = _single_file(part, stems, variant)
    # transformers looks for a single file first, diffusers for an index of shards.
    if index is not None and (single is None or library != "transformers"):
        return _sharded(part, index)
    if single is None:
        index = min(part.glob("*.index.json"), default=None)
        if index is not None:
            return _sharded(part, index)
        files = sorted(path for path in part.iterdir() if path.suffix in (".safetensors", ".bin"))
        if not files:
            return Weights(problems=[f"folder {part} has no weights (*.safetensors)"])
        return _read_all(files)
    return _read_all([single])


def _component_problems(part: Path, library: str, variant: str | None) -> list[str]:
    if not part.is_dir():
        return [f"folder {part} is a link to nothing" if part.is_symlink() else f"folder {part} is missing"]
    try:
        names = {path.name for path in part.iterdir()}
        if not names:
            return [f"folder {part} is empty"]
        code = sorted(name for name in names if name.endswith(".py")) + sorted(names & {"adapter_config.json"})
        problems = [f"{part / name} is there, and nothing in a model's folder may change its class" for name in code]
        for name in sorted(name for name in names if name.endswith(".json")):
            problems += _json_problems(part / name)
        for name in sorted(name for name in names if name.endswith(_VOCABULARIES)):
            problems += _vocabulary_problems(part / name)
        has_weights = any(name.endswith((".safetensors", ".bin", ".index.json")) for name in names)
        if has_weights or ("config.json" in names and not names & set(_CONFIGS)):
            weights = read_weights(part, library, variant)
            problems += weights.problems or _too_many_layers(part, len(weights.shapes))
        return problems
    except OSError as error:
        return [f"folder {part} cannot be read: {_first_line(error)}"]


def _too_many_layers(part: Path, tensors: int) -> list[str]:
    """A class is built before its weights are looked at, and a layer without a tensor costs memory as well."""
    try:
        config = _read_json(part / "config.json")
    except (OSError, ValueError):
        return []
    return [
        f"file {part / 'config.json'}: {key[:80]} is {value}, and the files have {tensors} tensors"
        for key, value in config.items()
        if _LAYERS.search(key) and isinstance(value, int) and value > max(tensors, _ALWAYS_LAYERS)
    ]


def _vocabulary_problems(path: Path) -> list[str]:
    """Whether a tokenizer's file is one: no more than its beginning and its end is read."""
    try:
        if not path.is_file():
            return [f"file {path} is {_absence(path)}"]
        with path.open("rb") as file:
            start = file.read(512)
            file.seek(max(path.stat().st_size - 64, 0))
            end = file.read().rstrip()
        check_kind(start)
        if not start:
            raise ValueError("is empty (0 bytes)")
        if path.suffix == ".json" and not (
            start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and end.endswith(b"}")
        ):
            raise ValueError("is not JSON, or cut")
    except OSError:
        return [f"file {path} is {_absence(path)}"]
    except ValueError as error:
        return [f"file {path} {error}"]
    return []


def _json_problems(path: Path) -> list[str]:
    if path.name == "tokenizer.json":
        return []
    if path.name.endswith(".index.json"):
        return [] if path.is_file() and path.stat().st_size else [f"file {path} is {_absence(path)}"]
    try:
        _read_json(path, objects_only=False)
    except OSError:
        return [f"file {path} is {_absence(path)}"]
    except ValueError as error:
        return [f"file {path} {_first_line(error)}"]
    return []


def _index_file(part: Path, stems: Iterable[str], variant: str | None) -> Path | None:
    names = [f"{stem}.{kind}.index.json" for stem in stems for kind in ("safetensors", "bin")]
    if variant is not None:
        forms = ("{}.safetensors.index.{}.json", "{}.{}.safetensors.index.json")
        names = [form.format(stem, variant) for stem in stems for form in forms] + names
    return next((part / name for name in names if _is_listed(part / name)), None)


def _single_file(part: Path, stems: Iterable[str], variant: str | None) -> Path | None:
    names = [f"{stem}.{kind}" for kind in ("safetensors", "bin") for stem in stems]
    if variant is not None:
        names = [f"{stem}.{variant}.safetensors" for stem in stems] + names
    return next((part / name for name in names if _is_listed(part / name)), None)


def _is_listed(path: Path) -> bool:
    """Return whether the folder has the name, be it a link to nothing."""
    return path.is_symlink() or path.exists()


def _sharded(part: Path, index: Path) -> Weights:
    try:
        shard_of = _read_json(index).get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
            raise ValueError("has no weight_map of tensors to files")
    except (OSError, ValueError) as error:
        return Weights(problems=[f"file {index} cannot be used: {_first_line(error)}"])
    odd = sorted(name for name in set(shard_of.values()) if not _NAME.fullmatch(name))
    if odd:
        return Weights(problems=[f"file {index} names {odd[0][:80]!r}, which is not a file of its folder"])
    weights = _read_all([part / name for name in sorted(set(shard_of.values()))])
    if weights.problems:
        return weights
    by_file = {path.name: header.shapes for path, header in weights.headers.items()}
    counts = Counter(name for shapes in by_file.values() for name in shapes)
    lost = [name for name, file in shard_of.items() if file in by_file and name not in by_file[file]]
    kinds = (
        ("tensors of the index are not in their files", lost),
        ("tensors are in no index", [name for name in counts if name not in shard_of]),
        ("tensors are in several files", [name for name, count in counts.items() if count > 1]),
    )
    # A file by another suffix (.bin) has no header to compare with.
    problems = [f"file {index}: {len(names)} {kind}: {_named(names)}" for kind, names in kinds if names]
    return Weights(weights.headers, problems)


def _read_all(paths: Iterable[Path]) -> Weights:
    weights = Weights()
    for path in paths:
        try:
            if path.suffix == ".safetensors":
                weights.headers[path] = read_header(path)
            else:
                _check_pickle(path)
        except OSError:
            weights.problems.append(f"file {path} is {_absence(path)}")
        except ValueError as error:
            weights.problems.append(f"file {path} {error}")
    return weights


def _check_pickle(path: Path) -> None:
    """PyTorch's older format, which the loaders read without running its code. Raises ValueError and OSError."""
    try:
        read_header(path)
    except ValueError as error:
        if "pointer" in str(error) or "page" in str(error) or "empty" in str(error) or "regular" in str(error):
            raise
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive and not zipfile.is_zipfile(path):
        raise ValueError("is cut: its archive has no end")


def _read_json(path: Path, *, objects_only: bool = True) -> dict[str, Any]:
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("is not a regular file")
    if state.st_size > _MAX_JSON_BYTES:
        raise ValueError(f"has {state.st_size} bytes; at most {_MAX_JSON_BYTES}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {_first_line(error)}"[:300]) from None
    if objects_only and not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value if isinstance(value, dict) else {}


def _absence(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"a broken link ({path.readlink()}): its target does not exist"
    return "missing" if not path.exists() else "empty or unreadable"


def _named(names: Iterable[str]) -> str:
    every = sorted(names)
    first_names = ", ".join(name[:120] for name in every[:_SHOWN])
    return first_names + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]


def variant_of(preset: Preset, folder: Path) -> dict[str, str]:
    """Half-precision files, where that is what the repository's folder has."""
    half = preset.dtype == "float16" and any(folder.glob("*/*.fp16.safetensors"))
    return {"variant": "fp16"} if half else {}
