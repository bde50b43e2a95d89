"""The fields ``seed`` and ``seeds``: ranges that are never written out."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import overload

from pipeline.prompts.numbers import show, spreadsheet_hint, whole_number
from pipeline.spec import MAX_SEED

MAX_SEEDS = 1_000_000
_SEED_PART = re.compile(r"\s*([0-9]{1,40})(?:\.0{0,40})?\s*(?:-\s*([0-9]{1,40})\s*)?")

Seeds = Sequence[int]


class SeedRanges(Sequence[int]):
    """Several ranges as one sequence, in their order: what a line of a few characters asks for takes no memory."""

    def __init__(self, ranges: Sequence[range]) -> None:
        self._ranges = tuple(ranges)
        self._starts = [0, *accumulate(map(len, ranges))]

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[int]:
        for part in self._ranges:
            yield from part

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, at) - 1
        return self._ranges[number][at - self._starts[number]]


def parse_seed(value: object, text: bool) -> Seeds:
    """One seed. Raises ValueError with the value and the rule."""
    try:
        return (_checked(whole_number(value, text)),)
    except ValueError as error:
        hint = spreadsheet_hint(value, text)
        if not hint and isinstance(value, list | str):
            hint = "; 'seeds' takes lists and ranges"
        raise ValueError(f"{error}{hint}") from None


def parse_seeds(value: object, _: bool) -> Seeds:
    """A list of whole numbers, or ``"1,2,5-7"``; ranges include both ends. Raises ValueError."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if not parts:
        raise ValueError("the list is empty")
    ranges = [_range_of(part) for part in parts]
    # Not len(): that of a range of 2**63 overflows.
    count = sum(part.stop - part.start for part in ranges)
    if count > MAX_SEEDS:
        raise ValueError(f"{show(value)} names {count} seeds; at most {MAX_SEEDS} are allowed")
    for part_range, following in pairwise(sorted(ranges, key=lambda part: part.start)):
        if following.start < part_range.stop:
            raise ValueError(f"seed {following.start} is listed twice in {show(value)}")
    return ranges[0] if len(ranges) == 1 else SeedRanges(ranges)


def _checked(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise ValueError(f"{show(value)} is not a whole number from 0 to {MAX_SEED} (2**63 - 1)")
    return value


def _range_of(part: object) -> range:
    if not isinstance(part, str):
        seed = _checked(whole_number(part, False))
        return range(seed, seed + 1)
    match = _SEED_PART.fullmatch(part)
    if match is None:
        dates = "; a spreadsheet may have read it as a date" if re.search(r"[^\W\d_]|/", part) else ""
        raise ValueError(f"{show(part)} is not a seed or a range such as '1-4'{dates}")
    first = _checked(int(match[1]))
    last = first if match[2] is None else _checked(int(match[2]))
    if last < first:
        raise ValueError(f"range {show(part.strip())} runs backwards; write '{last}-{first}'")
    return range(first, last + 1)
