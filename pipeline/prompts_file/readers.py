"""The formats: each reader turns bytes into defaults and records of raw fields, and knows nothing of what they mean."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from pipeline.prompts_file.lines import MAX_OBJECT_BYTES, lines_of
from pipeline.prompts_file.problems import Problems
from pipeline.prompts_file.yaml_reader import read_yaml_document


class Record(NamedTuple):
    """The raw fields of one line (or of the file's defaults) and where they stand."""

    line: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Table:
    """What a file says. ``text`` is true when all values are text and numbers must be read from it."""

    defaults: tuple[Record, ...]
    records: Iterator[Record]
    text: bool


Reader = Callable[[bytes, Problems], Table]

_OPTION = re.compile(r"(?:(?<=\s)|^)--(?=[^\W\d_])")
_OPTION_NAME = re.compile(r"([^\W\d_][\w-]*)(?:\s*=\s*|\s+|$)")


def read_txt(data: bytes, problems: Problems) -> Table:
    """A prompt a line. ``#`` starts a comment line; ``#: name = value`` lines before the first prompt are defaults."""
    defaults: list[Record] = []
    lines = lines_of(data, problems)
    first: list[tuple[int, str]] = []
    for number, line in lines:
        text = line.strip()
        if text.startswith("#:"):
            defaults += _txt_default(number, text, problems)
        elif text and not text.startswith("#"):
            first.append((number, line))
            break
    return Table(tuple(defaults), _txt_records(chain(first, lines), problems), text=True)


def _txt_default(number: int, text: str, problems: Problems) -> list[Record]:
    name, equals, value = text[2:].partition("=")
    if not equals or not name.strip():
        problems.add(f"{text[:60]!r} is not of the form '#: name = value'", line=number)
        return []
    return [Record(number, {name.strip().replace("-", "_"): value.strip()})]


def _txt_records(lines: Iterator[tuple[int, str]], problems: Problems) -> Iterator[Record]:
    for number, line in lines:
        text = line.strip()
        if text.startswith("#:"):
            problems.add("defaults ('#: name = value') must come before the first prompt", line=number)
        elif text and not text.startswith("#"):
            fields = _txt_fields(number, text, problems)
            if fields is not None:
                yield Record(number, fields)


def _txt_fields(number: int, text: str, problems: Problems) -> dict[str, object] | None:
    """``prompt --name value --name=value``; an option starts at a blank, two hyphens and a letter; ``\\--`` is text."""
    if text.startswith("\\#"):
        text = text[1:]
    if "--" not in text:
        return {"prompt": text}
    prompt, *options = _OPTION.split(text)
    fields: dict[str, object] = {"prompt": _plain(prompt)} if prompt.strip() else {}
    good = True
    for option in options:
        name_match = _OPTION_NAME.match(option)
        if name_match is None:
            problems.add(f"'--{option.strip()[:60]}' is not an option; write '\\--' for a plain '--'", line=number)
            good = False
            continue
        name = name_match[1].replace("-", "_")
        value = _plain(option[name_match.end() :])
        if name in fields:
            problems.add("is given twice on this line", line=number, field=name)
            good = False
        elif not value and name != "enhance":
            problems.add(f"'--{name}' needs a value", line=number, field=name)
            good = False
        else:
            fields[name] = value or "true"
    return fields if good else None


def _plain(text: str) -> str:
    return text.strip().replace("\\--", "--")


def read_jsonl(data: bytes, problems: Problems) -> Table:
    """An object a line; the first may be ``{"defaults": {…}}``."""
    records = _jsonl_records(data, problems)
    first = next(records, None)
    if first is None:
        return Table((), iter(()), text=False)
    if set(first.fields) != {"defaults"}:
        return Table((), chain((first,), records), text=False)
    defaults = first.fields["defaults"]
    if not isinstance(defaults, dict):
        problems.add("is not an object", line=first.line, field="defaults")
        return Table((), records, text=False)
    return Table((Record(first.line, defaults),), records, text=False)


def _jsonl_records(data: bytes, problems: Problems) -> Iterator[Record]:
    for number, line in lines_of(data, problems, MAX_OBJECT_BYTES):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            problems.add(f"not a JSON object{column}: {reason}", line=number)
            continue
        if isinstance(value, dict):
            yield Record(number, value)
        else:
            problems.add(f"{line.strip()[:60]!r} is JSON but not an object ({{…}})", line=number)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return result


def read_csv(data: bytes, problems: Problems) -> Table:
    """A header of field names, then a row a prompt; RFC 4180 quoting, commas. An empty cell is a field not given."""
    rows = _csv_rows(data, problems)
    header = next(rows, None)
    if header is None:
        return Table((), iter(()), text=True)
    names = [cell.strip() for cell in header[1]]
    for name in sorted({name for name in names if names.count(name) > 1 or not name}):
        problems.add(f"column {name!r} is {'given twice' if name else 'unnamed'} in the header", line=header[0])
    return Table((), _csv_records(rows, names, problems), text=True)


def _csv_records(rows: Iterator[tuple[int, list[str]]], names: list[str], problems: Problems) -> Iterator[Record]:
    for number, row in rows:
        if len(row) == len(names):
            yield Record(number, dict(zip(names, row, strict=True)))
        else:
            problems.add(f"row has {len(row)} cells; the header has {len(names)}", line=number)


def _csv_rows(data: bytes, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """``(line the row begins on, cells)``; a quoted cell may span lines."""
    position = [0]

    def numbered() -> Iterator[str]:
        for number, line in lines_of(data, problems):
            position[0] = number
            yield line + "\n"

    reader = csv.reader(numbered(), strict=True)
    begins = 1
    try:
        for row in reader:
            if row:
                yield begins, row
            begins = position[0] + 1
    except csv.Error as error:
        problems.add(f"not CSV: {error}", line=begins)


def read_yaml(data: bytes, problems: Problems) -> Table:
    """``defaults:``, a mapping, and ``prompts:``, a list of texts or mappings."""
    text = "\n".join(line for _, line in lines_of(data, problems))
    if problems.count:  # with a line left out the numbers of the others would be wrong
        return Table((), iter(()), text=False)
    defaults, prompts = read_yaml_document(text, problems)
    return Table(
        () if defaults is None else (Record(*defaults),),
        (Record(line, value if isinstance(value, dict) else {"prompt": value}) for line, value in prompts),
        text=False,
    )


READERS: dict[str, Reader] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".yaml": read_yaml,
    ".yml": read_yaml,
}
