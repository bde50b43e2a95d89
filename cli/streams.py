"""Standard streams that do not end the work: closed ones, broken pipes, terminals with small character sets.

As in the tools of a shell, whoever reads our results may stop at any time (`vgen list | head -1`): that is no error,
and what is written afterwards goes nowhere. A disk that is full is one. What cannot be written to stderr is lost.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2


class ReaderGoneError(Exception):
    """Whoever read our output has closed it. Not an OSError, which typer would turn into exit code 1."""


class OutputError(Exception):
    """Our output cannot be written; the message says why. Not an OSError either: those are about files of the work."""


class _Stdout(io.FileIO):
    """Tells a failing output apart from every other failing file."""

    work_goes_on = False
    """True where a reader that goes away ends the command."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF):
                raise OutputError(f"standard output: {error.strerror}") from None
            if not self.work_goes_on:
                raise ReaderGoneError from None
            discard(STDOUT)
            return super().write(data)


class _Stderr(io.FileIO):
    """A notice that nobody can be told is lost."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Make this process's streams so. To be called once, before anything else opens a file."""
    for number in (0, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:  # closed by whoever started us: the next file to be opened would become our output
            if os.open(os.devnull, os.O_RDWR) != number:
                discard(number)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  (for the process's life)
    sys.stdout = sys.__stdout__ = _text(_Stdout(STDOUT, "w", closefd=False), sys.stdout)  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = _text(_Stderr(STDERR, "w", closefd=False), sys.stderr)  # type: ignore[misc,assignment]


def keep_working() -> None:
    """Keep the command running when a reader goes away: it does more than to show something."""
    _Stdout.work_goes_on = True


def discard(number: int) -> None:
    """Discard everything that is written to this descriptor from now on, what is still buffered included."""
    with contextlib.suppress(OSError, io.UnsupportedOperation):
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """Text over ``raw``; what its encoding lacks is written as an escape."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == STDERR,
        write_through=bool(getattr(before, "write_through", False)),
    )
