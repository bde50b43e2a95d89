"""``.jsonl``: a JSON object a line."""

from collections.abc import Iterator
from itertools import chain, islice

from pipeline.files.json_reader import JsonError, parse_json
from pipeline.prompts.formats.lines import MAX_OBJECT_BYTES, lines_of
from pipeline.prompts.formats.table import Record, Table
from pipeline.prompts.problems import Problems

_ONE_A_LINE = "a .jsonl file has a whole object on each line"
_MANY_LINES = f"{_ONE_A_LINE}, and here one goes over several; `jq -c . FILE` writes it so"
_LIST = f"{_ONE_A_LINE}, and this is a list of them; `jq -c '.[]' FILE` writes it so"


def read_jsonl(data: bytes, problems: Problems) -> Table:
    """An object a line; the first may be ``{"defaults": {…}}``."""
    records = _records(data, problems)
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


def _records(data: bytes, problems: Problems) -> Iterator[Record]:
    lines = ((number, line.strip()) for number, line in lines_of(data, problems, MAX_OBJECT_BYTES) if line.strip())
    head = list(islice(lines, 2))
    second = head[1][1] if len(head) > 1 else None
    for at, (number, line) in enumerate(chain(head, lines)):
        try:
            value = parse_json(line, allow_nan=True)
        except JsonError as error:
            if error.key is not None:
                problems.add(error.message, line=number, field=error.key)
                continue
            other_form = _other_form(line, second) if at == 0 else None
            column = f" at column {error.column}" if error.column else ""
            problems.add(
                f"not a JSON object{column}: {error.message}{f'; {other_form}' if other_form else ''}",
                line=number,
                kind=error.message,
            )
            if other_form:  # every further line would be wrong for the same reason
                return
        else:
            if isinstance(value, dict):
                yield Record(number, value)
            else:
                hint = f"; {_LIST}" if isinstance(value, list) and value and isinstance(value[0], dict) else ""
                problems.add(
                    f"{line[:60]!r} is JSON but not an object ({{…}}){hint}", line=number, kind="not an object"
                )


def _other_form(line: str, second: str | None) -> str | None:
    """Return what the file is, where its first line begins a JSON text of several lines."""
    if second is None or line[:1] not in ("[", "{"):
        return None
    if line.startswith("["):
        return _LIST
    return None if second.startswith("{") else _MANY_LINES
