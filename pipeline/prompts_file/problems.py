"""Collects every mistake of a file, so that they are shown together."""

from __future__ import annotations

from pipeline.errors import InputError, Problem

MAX_SHOWN = 1000
"""Problems that an error lists; the rest are counted. A wrong default can be wrong on every one of a million lines."""


class Problems:
    """The mistakes found so far in one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.count = 0
        self._shown: list[Problem] = []

    def add(self, message: str, *, line: int | None = None, field: str | None = None) -> None:
        self.count += 1
        if len(self._shown) < MAX_SHOWN:
            self._shown.append(Problem(message, self.file, line, field))

    def raise_if_any(self) -> None:
        """
        Raises:
            InputError: there are problems; the first ``MAX_SHOWN``, then one that counts the others.
        """
        if not self.count:
            return
        more = self.count - len(self._shown)
        tail = [Problem(f"{more} more problems; the first {MAX_SHOWN} are listed", self.file)] if more else []
        raise InputError([*self._shown, *tail])
