"""Bytes to numbered lines of text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from pipeline.prompts_file.problems import Problems

MAX_LINE_BYTES = 1_000_000
MAX_OBJECT_BYTES = 48_000_000
"""Of a line of JSON, which may hold an image of 32 MiB in base64."""
MAX_FILE_BYTES = 256 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r")


def lines_of(data: bytes, problems: Problems, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    """``(number, text)`` of each good line, without its end; LF, CRLF and CR all end lines, numbers start at 1.

    A line that is too long or is not UTF-8 is reported and left out.
    """
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    number = 0
    while start < len(data):
        number += 1
        found = _LINE_END.search(data, start)
        end, following = (found.start(), found.end()) if found else (len(data), len(data))
        text = _decode(data, start, end, number, problems, max_bytes)
        if text is not None:
            yield number, text
        start = following


def _decode(data: bytes, start: int, end: int, number: int, problems: Problems, max_bytes: int) -> str | None:
    if end - start > max_bytes:
        problems.add(f"line has {end - start} bytes; at most {max_bytes} are allowed", line=number)
        return None
    try:
        return data[start:end].decode("utf-8")
    except UnicodeDecodeError as error:
        problems.add(
            f"byte {error.start + 1} of the line is 0x{data[start + error.start]:02x}, "
            "which is not UTF-8; save the file as UTF-8",
            line=number,
        )
        return None
