"""Names of form fields with brackets, as OpenAI's SDKs flatten nested values: ``a[b]``, ``a[]``, ``loras[][path]``."""

import re
from collections.abc import Iterable

from server.errors import ApiError

MAX_DEPTH = 8
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")
REPEATABLE = frozenset({"loras", "reference_images", "gate"})
"""Fields that may be given several times without brackets: each time is an item of a list."""


def nested(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """Put flat fields together again. Raises ApiError: 400."""
    fields: dict[str, object] = {}
    columns: dict[str, dict[str, list[object]]] = {}
    for name, value in pairs:
        head, keys = _split(name)
        if len(keys) == 2 and keys[0] == "" and keys[1]:
            columns.setdefault(head, {}).setdefault(keys[1], []).append(value)
        else:
            _put(fields, name, head, keys, value)
    for head, by_key in columns.items():
        if head in fields:
            raise _refused(head, "is given with brackets and without")
        fields[head] = _rows(head, by_key)
    return {name: _listed(value) for name, value in fields.items()}


def _split(name: str) -> tuple[str, list[str]]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise _refused(name, "is not a valid name: use a, a[b] or a[]")
    keys = _PART.findall(match[2])
    if len(keys) > MAX_DEPTH:
        raise _refused(match[1], f"is nested more than {MAX_DEPTH} deep")
    if "" in keys[:-1] and keys[:1] != [""]:
        raise _refused(match[1], f"{name[:80]!r} has [] in the middle: only a[], a[][b] and a[b][] are read")
    return match[1], keys


def _put(fields: dict[str, object], name: str, head: str, keys: list[str], value: object) -> None:
    place: dict[str, object] = fields
    for key, following in zip([head, *keys[:-1]], keys, strict=False) if keys else ():
        inner = place.setdefault(key, [] if following == "" else {})
        if following == "":
            if not isinstance(inner, list):
                raise _refused(head, "is given with brackets and without")
            inner.append(value)
            return
        if not isinstance(inner, dict):
            raise _refused(head, "is given with brackets and without")
        place = inner
    last = keys[-1] if keys else head
    if last not in place:
        place[last] = value
    elif not keys and head in REPEATABLE:
        before = place[head]
        place[head] = [*before, value] if isinstance(before, list) else [before, value]
    else:
        raise _refused(head, f"{name[:80]!r} is given twice")


def _rows(head: str, by_key: dict[str, list[object]]) -> list[object]:
    """Regroup ``head[][key]``: the first value of each key is the first item's."""
    counts = {key: len(values) for key, values in by_key.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{head}[][{key}] {count} times" for key, count in counts.items())
        raise _refused(head, f"has items with different keys: {shown}; send it as JSON text")
    rows = zip(*by_key.values(), strict=True)
    return [dict(zip(by_key, row, strict=True)) for row in rows]


def _listed(value: object) -> object:
    """Mappings whose keys are 0, 1, 2, … are lists: ``loras[0][path]``."""
    if not isinstance(value, dict):
        return value
    items = {key: _listed(item) for key, item in value.items()}
    numbers = sorted(int(key) for key in items if key.isascii() and key.isdecimal() and len(key) < 4)
    if items and numbers == list(range(len(items))):
        return [items[str(number)] for number in numbers]
    return items


def _refused(name: str, message: str) -> ApiError:
    return ApiError(400, f"{name[:80]}: {message}", code="invalid_form", param=name[:80])
