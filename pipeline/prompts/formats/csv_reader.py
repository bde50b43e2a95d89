"""``.csv``: a header of field names, then a row a prompt, as spreadsheets and pandas write it."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from pipeline.prompts.fields import FIELD_RULES, unknown_field
from pipeline.prompts.formats.lines import INVISIBLE, lines_of
from pipeline.prompts.formats.table import Record, Table
from pipeline.prompts.problems import Problems

MAX_COLUMNS = 1000
_DELIMITERS = ",;\t|"
_MISSING = frozenset({"nan", "NaN", "<NA>", "NaT", "None", "NULL", "\\N", "N/A"})
_FAULTS = re.compile(r"#(?:N/A|NV|[A-ZÀ-Þ/0-9]{2,12}[!?])|Err:[0-9]{3}")
"""In any language of Excel and Numbers, and LibreOffice's."""
_FORMULA = re.compile(r"=\s*(?:\"|[A-Z][A-Z.]{1,20}\()")
_NO_NAME = "has cells, but no name in the header; pandas writes its index so: use to_csv(index=False)"
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\s]|\t)"?[ ,;]*')
"""The first line of a file that says to Excel what separates its cells."""
_QUOTES = "“”„‟«»"

Rows = Iterator[tuple[int, list[str]]]


def read_csv(data: bytes, problems: Problems) -> Table:
    """RFC 4180 quoting; commas, or what else separates the header's names. An empty cell is a field not given."""
    rows = _rows(data, problems)
    header = next(rows, None)
    if header is None:
        return Table((), iter(()), text=True)
    line, cells = header
    names = [cell.strip().strip(INVISIBLE).strip() for cell in cells]
    if len(names) > MAX_COLUMNS:
        problems.add(f"the header has {len(names)} columns; at most {MAX_COLUMNS} are read", line=line)
        return Table((), iter(()), text=True)
    if any(names) and not any(name.casefold() in FIELD_RULES for name in names):
        shown = ", ".join(name[:30] for name in names[:3])
        problems.add(f"the first row names the fields, such as 'prompt,seed'; {shown!r} are none", line=line)
        return Table((), iter(()), text=True)
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    for name in twice:
        problems.add(f"column {name[:60]!r} is given twice in the header", line=line)
    return Table((), iter(()) if twice else _records(rows, line, names, problems), text=True)


def _records(rows: Rows, header_line: int, names: Sequence[str], problems: Problems) -> Iterator[Record]:
    """A column that is not a field is said once, at the header, when a row has something in it; no row is read then."""
    strange = [at for at, name in enumerate(names) if name not in FIELD_RULES]
    # A spreadsheet saves columns in which there once was something, and leaves empty cells at the end of a row out.
    named = max((at for at, name in enumerate(names, 1) if name), default=0)
    for number, row in rows:
        cells = [*_without_empty_end(row, len(names)), *[""] * (len(names) - len(row))]
        if len(cells) != len(names) or len(row) < named:
            typographic = any(cell[:1] in _QUOTES for cell in row if cell)
            hint = '; typographic quotes quote nothing in CSV, " does' if typographic else ""
            problems.add(f"row has {len(row)} cells; the header has {named}{hint}", line=number)
        elif any(cells[at].strip() for at in strange):
            _report_columns(strange, names, cells, header_line, problems)
            return
        else:
            fields = {name: cell for name, cell in zip(names, cells, strict=True) if name in FIELD_RULES}
            if not _report_placeholders(fields, number, problems):
                yield Record(number, fields)


def _without_empty_end(row: list[str], columns: int) -> list[str]:
    end = len(row)
    while end > columns and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _report_columns(
    strange: Sequence[int], names: Sequence[str], cells: Sequence[str], line: int, problems: Problems
) -> None:
    for place, at in enumerate(strange):
        name = names[at]
        if not name:
            if cells[at].strip():
                problems.add(f"column {at + 1} {_NO_NAME}", line=line)
        else:
            index = "; pandas writes its index so: use to_csv(index=False)" if name.startswith("Unnamed:") else ""
            problems.add(unknown_field(name, hint=place < 20, known=place == 0) + index, line=line, field=name)


def _report_placeholders(fields: dict[str, str], line: int, problems: Problems) -> bool:
    """Report what programs write for an empty cell or a failed formula: as a prompt it would be generated."""
    wrong = False
    for name, cell in fields.items():
        if cell in _MISSING:
            message = f"{cell!r} is what pandas and databases write for a missing value; leave the cell empty"
        elif _FAULTS.fullmatch(cell):
            message = f"{cell!r} is what a spreadsheet shows for a formula that failed"
        elif _FORMULA.match(cell):
            message = f"{cell[:60]!r} is a spreadsheet's formula; write its value"
        else:
            continue
        problems.add(message, line=line, field=name)
        wrong = True
    return wrong


def _rows(data: bytes, problems: Problems) -> Rows:
    """``(line the row begins on, cells)`` of rows in which there is something; a quoted cell may span lines."""
    lines = lines_of(data, problems)
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    begins, delimiter = first[0], _delimiter(first[1])
    separator = _SEPARATOR_LINE.fullmatch(first[1])
    if separator is not None:
        begins, delimiter = first[0] + 1, separator[1]
    rows = lines if separator is not None else chain((first,), lines)
    position = [begins]

    def numbered() -> Iterator[str]:
        for number, line in rows:
            position[0] = number
            yield line + "\n"

    reader = csv.reader(numbered(), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield begins, row
            begins = position[0] + 1
    except csv.Error as error:
        problems.add(f"not CSV: {error}", line=begins)


def _delimiter(header: str) -> str:
    """Spreadsheets write what their country writes: the separator under which the most names are fields."""
    counts = {}
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            names = []
        counts[delimiter] = sum(name.strip().strip(INVISIBLE).strip().casefold() in FIELD_RULES for name in names)
    return max(_DELIMITERS, key=lambda delimiter: counts[delimiter])
