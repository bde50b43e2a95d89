"""Layers of values: the file's defaults, the command line, the line. Later ones override, group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import cast

from pipeline.files.json_reader import parse_json
from pipeline.inputs.collector import InputCollector
from pipeline.prompts.acceleration import Given, join
from pipeline.prompts.fields import MAX_JOBS, PARSERS, unknown_field
from pipeline.prompts.loras import LoraGiven
from pipeline.prompts.numbers import show
from pipeline.prompts.segments import unite_segments

Values = dict[str, object]
"""Checked values by field; ``size`` has become width and height, ``seed`` has become ``seeds``."""

Report = Callable[[str, str], None]
"""Takes a field's name and what is wrong with it."""

MAX_HINTS = 50
"""Unknown names of a file for which the nearest known one is looked for."""
_LENGTH = frozenset({"num_frames", "seconds"})


@dataclass(frozen=True, slots=True)
class Column:
    """A swept field: its values, as layers."""

    name: str
    values: tuple[Values, ...]
    keys: frozenset[str]
    """Every key of the layers: kept, because each line of a file asks for them."""

    def settled_by(self, names: set[str]) -> bool:
        if "segments" in self.keys:  # a list holds a prompt too, which a line may give without settling the segments
            return "segments" in names
        return bool(names & _LENGTH) if self.keys & _LENGTH else self.keys <= names


@dataclass(frozen=True, slots=True)
class Sweep:
    """Fields that take several values."""

    mode: str
    columns: tuple[Column, ...]

    def without(self, names: set[str]) -> Sweep:
        """The sweep less the fields that a stronger layer has settled."""
        return Sweep(self.mode, tuple(column for column in self.columns if not column.settled_by(names)))

    def count(self) -> int:
        sizes = [len(column.values) for column in self.columns]
        if self.mode == "zip":
            return sizes[0] if sizes else 1
        total = 1
        for size in sizes:
            total *= size
        return total

    def combinations(self) -> Iterator[Values]:
        """One layer for each combination; the last field varies fastest."""
        columns = [column.values for column in self.columns]
        if not columns:
            yield {}
            return
        for combination in zip(*columns, strict=True) if self.mode == "zip" else product(*columns):
            yield {name: value for values in combination for name, value in values.items()}


def merge(weak: Values, strong: Values) -> Values:
    """Both layers' values; the strong one's win. A length replaces a length; labels and
    accelerations are joined."""
    result = {name: v for name, v in weak.items() if name not in _LENGTH} if strong.keys() & _LENGTH else dict(weak)
    if "segments" in strong:  # with their prompts, if it lists any: a weaker list or wish to write them is over
        for name in ("segment_prompts", "auto_extend"):
            if name in result and (name == "segment_prompts" or "segment_prompts" in strong):
                del result[name]
    result.update(strong)
    if "labels" in weak and "labels" in strong:
        result["labels"] = {**weak["labels"], **strong["labels"]}  # type: ignore[dict-item]
    if "acceleration" in weak and "acceleration" in strong:
        result["acceleration"] = join(cast(Given, weak["acceleration"]), cast(Given, strong["acceleration"]))
    return result


class LayerReader:
    """Checks raw fields and brings them into one form."""

    def __init__(self, inputs: InputCollector) -> None:
        self._inputs = inputs
        self._unknown: set[str] = set()
        self._first_unknown = ""

    def read(self, raw: Mapping[str, object], text: bool, report: Report) -> tuple[Values, Sweep | None]:
        """The layer and its sweep; what is wrong is reported and left out. None and empty cells are not given."""
        values: Values = {}
        sweep: Sweep | None = None
        for name, value in raw.items():
            if value is None or (text and value == ""):
                continue
            if name == "sweep":
                sweep = self._sweep(value, text, report)
                continue
            try:
                values[name] = self._parse(name, value, text)
            except ValueError as error:
                report(name, str(error))
        _unite_seeds(values, report)
        _unite_size(values, report)
        _unite_loras(values, report)
        unite_segments(values, report)
        if sweep is not None:
            for column in sweep.columns:
                repeated = column.values[0].keys() & values.keys()
                if repeated:
                    report("sweep", f"{column.name!r} is swept here and also given as {', '.join(sorted(repeated))!r}")
        return values, sweep

    def _parse(self, name: str, value: object, text: bool) -> object:
        parser = PARSERS.get(name)
        if parser is None:
            raise ValueError(self._unknown_field(name))
        parsed = parser(value, text)
        if name in ("image", "last_image"):
            return self._inputs.resolve(str(parsed))
        if name == "video":
            return self._inputs.resolve_video(str(parsed))
        if name == "reference_images":
            return tuple(self._inputs.resolve(item) for item in cast("tuple[str, ...]", parsed))
        if name in ("lora", "loras"):
            return tuple(lora.resolved(self._inputs) for lora in cast("tuple[LoraGiven, ...]", parsed))
        return parsed

    def _unknown_field(self, name: str) -> str:
        """All fields are listed once a file, and the nearest one, which takes time to find, for the first names."""
        if name not in self._unknown and len(self._unknown) < MAX_HINTS:
            self._unknown.add(name)
            self._first_unknown = self._first_unknown or name
        return unknown_field(name, hint=name in self._unknown, known=name == self._first_unknown)

    def _sweep(self, raw: object, text: bool, report: Report) -> Sweep | None:
        if text and isinstance(raw, str):
            try:
                raw = parse_json(raw, allow_nan=True)
            except ValueError:
                report("sweep", f"{show(raw)} is not JSON")
                return None
        if not isinstance(raw, dict):
            report("sweep", f"{show(raw)} is not a mapping of fields to lists")
            return None
        mode = raw.get("mode", "product")
        if mode not in ("product", "zip"):
            report("sweep", f"mode {show(mode)} is not 'product' or 'zip'")
            return None
        columns = []
        for name, choices in raw.items():
            if name != "mode":
                values = self._column(name, choices, report)
                if values is None:
                    return None
                columns.append(Column(name, values, frozenset(key for layer in values for key in layer)))
        return _checked_sweep(Sweep(mode, tuple(columns)), report)

    def _column(self, name: str, choices: object, report: Report) -> tuple[Values, ...] | None:
        where = f"sweep.{name}"
        if name in ("seeds", "sweep"):
            report(where, "cannot be swept; sweep 'seed', or give 'seeds' beside the sweep")
        elif not isinstance(choices, list) or not choices:
            report(where, f"{show(choices)} is not a list of one or more values")
        else:
            layers: list[Values] = []
            for choice in choices:
                try:
                    layer: Values = {name: self._parse(name, choice, False)}
                except ValueError as error:
                    report(where, str(error))
                    return None
                _unite_seeds(layer, report)
                _unite_size(layer, report)
                _unite_loras(layer, report)
                unite_segments(layer, report)
                layers.append(layer)
            return tuple(layers)
        return None


def _checked_sweep(sweep: Sweep, report: Report) -> Sweep | None:
    if not sweep.columns:
        report("sweep", "names no field")
        return None
    lengths = {column.name: len(column.values) for column in sweep.columns}
    if sweep.mode == "zip" and len(set(lengths.values())) > 1:
        report("sweep", f"lists of a zip must be equally long; given: {lengths}")
        return None
    keys = [key for column in sweep.columns for key in column.values[0]]
    if len(set(keys)) != len(keys):
        report("sweep", f"{', '.join(lengths)} name the same thing twice")
        return None
    if sweep.count() > MAX_JOBS:
        report("sweep", f"makes {sweep.count()} combinations; at most {MAX_JOBS} are allowed")
        return None
    return sweep


def _unite_seeds(values: Values, report: Report) -> None:
    if "seed" in values:
        seed = values.pop("seed")
        if "seeds" in values:
            report("seed", "both 'seed' and 'seeds' are given; give one")
        values["seeds"] = seed


def _unite_size(values: Values, report: Report) -> None:
    if "size" not in values:
        return
    width, height = cast("tuple[int, int]", values.pop("size"))
    if values.get("width", width) != width or values.get("height", height) != height:
        report("size", f"{width}x{height} contradicts width or height given beside it")
    values["width"], values["height"] = width, height


def _unite_loras(values: Values, report: Report) -> None:
    if "lora" not in values:
        return
    loras = values.pop("lora")
    if "loras" in values:
        report("lora", "both 'lora' and 'loras' are given; give one")
    values["loras"] = loras
