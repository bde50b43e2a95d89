"""Bytes to numbered lines of text."""

import re
from collections.abc import Iterator

from pipeline.prompts.problems import Problems

MAX_LINE_BYTES = 1_000_000
MAX_OBJECT_BYTES = 48_000_000
"""The limit of a line of JSON, which may hold an image of 32 MiB in base64."""
MAX_FILE_BYTES = 256 * 1024 * 1024
INVISIBLE = "\ufeff\u200b\u2060\u180e"
"""Byte order marks and blanks without width: files that were joined, and texts of web pages, have them anywhere."""

LINE_END = re.compile(rb"\r\n|\n|\r")
TXT_LINE_END = re.compile(rb"\r\n|[\n\r\x0b\x0c]|\xc2\x85|\xe2\x80[\xa8\xa9]")
"""Whatever Unicode (UTS 18, RL1.6) calls an end of line; phones and word processors write the rarer ones."""


def lines_of(
    data: bytes, problems: Problems, max_bytes: int = MAX_LINE_BYTES, line_end: re.Pattern[bytes] = LINE_END
) -> Iterator[tuple[int, str]]:
    """``(number, text)`` of each good line, without its end and the marks at its ends; numbers start at 1.

    A line that is too long or is not UTF-8 is reported and left out.
    """
    start = number = 0
    while start < len(data):
        number += 1
        match = line_end.search(data, start)
        end, following = (match.start(), match.end()) if match else (len(data), len(data))
        text = _decode(data, start, end, number, problems, max_bytes)
        if text is not None:
            yield number, text if text.isascii() else text.strip(INVISIBLE)
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
            kind="not UTF-8",
        )
        return None
