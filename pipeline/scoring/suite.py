"""VBench's prompt suite (``VBench_full_info.json``): read from a path, or from an installed ``vbench`` wheel."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.digests import sha256_hex
from pipeline.errors import InputError, NotFoundError, Problem
from pipeline.files.json_reader import json_of_bytes
from pipeline.files.pipes import read_file_or_pipe
from pipeline.scoring.vbench import DIMENSIONS

FILE_NAME = "VBench_full_info.json"
MAX_FILE_BYTES = 64 * 1024 * 1024
STANDARD_SHA256 = "5dd2de80ee43cda750b2b72ea7023657c0b90d3702041c7e4608c65dbe50dccd"
"""The digest of the file that VBench 0.1.5 ships, with 946 entries."""


@dataclass(frozen=True, slots=True)
class SuiteEntry:
    """One prompt. Clips are keyed by ``index`` and seed: two pairs of entries have the same prompt."""

    index: int
    prompt: str
    dimensions: tuple[str, ...]
    auxiliary: Mapping[str, Any]
    """The facts by dimension; the file wraps some several times, which is undone here."""


@dataclass(frozen=True, slots=True)
class Suite:
    entries: tuple[SuiteEntry, ...]
    sha256: str
    source: str = ""
    """Its file, for messages."""

    @property
    def standard(self) -> bool:
        """Return whether it is the published suite, byte for byte."""
        return self.sha256 == STANDARD_SHA256


_FOLDER = Path(__file__).parent / "suites"
OWN_SUITE = _FOLDER / "nightly.json"
"""Eighty prompts of our own over the native dimensions: for each night, and for those without VBench's file."""
SHAPES_SUITE = _FOLDER / "shapes.json"
"""Thirty-six prompts of the shapes' world, for ``shapes.follows_prompt``: it needs no weights but the model's."""
NAMED: Mapping[str, Path] = {"own": OWN_SUITE, "shapes": SHAPES_SUITE}
"""Suites that vgen brings along, by the names that stand for them wherever a suite's file is asked for."""


def find_suite(path: Path | None) -> Path:
    """The given file, or the one in the installed ``vbench`` wheel. Raises NotFoundError."""
    if path is not None:
        return path
    spec = importlib.util.find_spec("vbench")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / FILE_NAME).is_file():
            return Path(folder) / FILE_NAME
    raise NotFoundError(f"no suite: give VBench's {FILE_NAME} with --suite, or install the vbench wheel")


def located(path: Path) -> Path:
    """The suite's file as an absolute path: of a name in ``NAMED`` that is no file here, the file of that suite."""
    return NAMED[path.name] if path.name in NAMED and not path.exists() else path.absolute()


def read_suite(path: Path) -> Suite:
    """Read a suite's file, or the one that its name in ``NAMED`` stands for. Raises InputError with every mistake."""
    path = NAMED[path.name] if path.name in NAMED and not path.exists() else path
    data = read_file_or_pipe(path, what="the suite", limit_bytes=MAX_FILE_BYTES)
    records = json_of_bytes(data, str(path), what="the suite")
    if not isinstance(records, list) or not records:
        raise InputError([Problem("the suite is not a JSON list with at least one entry", file=str(path))])
    entries, problems = [], []
    for index, raw in enumerate(records):
        problem = _mistake(raw)
        if problem:
            problems.append(Problem(problem, file=str(path), field=f"entry {index}"))
            continue
        auxiliary = {name: _unwrapped(name, value) for name, value in raw.get("auxiliary_info", {}).items()}
        entries.append(SuiteEntry(index, raw["prompt_en"], tuple(raw["dimension"]), auxiliary))
    if problems:
        raise InputError(problems)
    return Suite(tuple(entries), sha256_hex(data), str(path))


def _mistake(raw: object) -> str | None:
    if not isinstance(raw, dict) or not isinstance(raw.get("prompt_en"), str) or not raw["prompt_en"].strip():
        return "the entry has no prompt_en: a text that is not empty is needed"
    if not isinstance(raw.get("dimension"), list) or not raw["dimension"]:
        return "the entry has no list of dimensions (`dimension`)"
    unknown = [name for name in raw["dimension"] if not isinstance(name, str) or name not in DIMENSIONS]
    if unknown:
        return f"{unknown[0]!r:.80} is not a VBench dimension"
    return None if isinstance(raw.get("auxiliary_info", {}), dict) else "auxiliary_info is not an object"


def _unwrapped(name: str, value: Any) -> Any:
    while isinstance(value, dict) and set(value) == {name}:
        value = value[name]
    return value
