"""The scoring options of a prompt file's defaults: ``score``, ``gate`` and ``reroll`` hold for the whole batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.prompts.numbers import show, whole_number

SCORE_FIELDS = ("score", "gate", "reroll")


@dataclass(frozen=True, slots=True)
class FileScoring:
    """The options as the file has them; None is not set. Names and rules are checked by who knows the metrics."""

    score: tuple[str, ...] | None = None
    gate: tuple[str, ...] | None = None
    reroll: int | None = None


NO_SCORING = FileScoring()


def read_scoring(raw: Mapping[str, object], report: Callable[[str, str], None]) -> FileScoring:
    """Names as a list or separated by commas, ``reroll`` as a whole number; mistakes are reported and left out."""
    return FileScoring(
        score=_names("score", raw.get("score"), report),
        gate=_names("gate", raw.get("gate"), report),
        reroll=_count(raw.get("reroll"), report),
    )


def split_names(text: str) -> tuple[str, ...]:
    """``a, b`` as its names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _names(field: str, value: object, report: Callable[[str, str], None]) -> tuple[str, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return split_names(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(name for item in value for name in split_names(item))
    report(field, f"{show(value)} is not a name, or a list of names")
    return None


def _count(value: object, report: Callable[[str, str], None]) -> int | None:
    if value is None or value == "":
        return None
    count = whole_number(value, True)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 10**9:
        report("reroll", f"{show(value)} is not a whole number")
        return None
    return count
