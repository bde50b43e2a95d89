"""Collects the mistakes of a file, so that they are reported together, each kind once."""

from dataclasses import dataclass, field

from pipeline.errors import InputError, Problem

MAX_SHOWN = 50
"""Problems that an error lists; the rest are counted. Nobody reads more before mending the first ones."""
MAX_MESSAGE_CHARS = 1000
_MAX_FIELD_CHARS = 80
_LINES_NAMED = 3


@dataclass(slots=True)
class _Kind:
    problem: Problem
    also: list[int] = field(default_factory=list)
    """The first few other lines that have it."""
    count: int = 1

    def as_problem(self) -> Problem:
        first = self.problem
        if self.count == 1:
            return first
        repeats = self.count - 1
        lines = ", ".join(map(str, self.also))
        more = f" and {repeats - len(self.also)} more" if repeats > len(self.also) else ""
        where = f"; the same on line{'s' if repeats > 1 else ''} {lines}{more}" if lines else f"; {repeats} more such"
        return Problem(first.message + where, first.file, first.line, first.field)


class Problems:
    """The mistakes found so far in one file. The same mistake on many lines is one, with the lines' number."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.count = 0
        self._kinds: dict[tuple[str | None, str], _Kind] = {}
        self._more = 0

    def add(self, message: str, *, line: int | None = None, field: str | None = None, kind: str | None = None) -> None:
        """``kind`` is what is the same in messages of one mistake; by default all of the message."""
        self.count += 1
        text = message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}…"
        name = field if field is None or len(field) <= _MAX_FIELD_CHARS else f"{field[:_MAX_FIELD_CHARS]}…"
        entry = self._kinds.get((name, kind or text))
        if entry is not None:
            entry.count += 1
            if line is not None and len(entry.also) < _LINES_NAMED:
                entry.also.append(line)
        elif len(self._kinds) < MAX_SHOWN:
            self._kinds[name, kind or text] = _Kind(Problem(text, self.file, line, name))
        else:
            self._more += 1

    def raise_if_any(self) -> None:
        """
        Raises:
            InputError: there are problems; the first ``MAX_SHOWN`` kinds, then one that counts the others.
        """
        if not self.count:
            return
        problems = [kind.as_problem() for kind in self._kinds.values()]
        if self._more:
            problems.append(Problem(f"{self._more} more problems; the first {MAX_SHOWN} are listed", self.file))
        raise InputError(problems)
