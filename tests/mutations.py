"""Files as chance damages them: bytes that are changed, cut and repeated, and JSON whose values are other ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

_TOKENS: tuple[bytes, ...] = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8", b"\r", b"\n", b"\x1b[31m"),
    *(b"[" * 200, b"{" * 200, b'{"a":' * 200, b"]", b"}", b"- " * 200, b"a.b." * 200, b"9" * 500, b"1:" * 300),
    *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"2001-13-45", b"0x" + b"f" * 400, b"''", b'"', b"'", b","),
    *(b"&a ", b"*a", b"!!int ", b"<<: ", b"%TAG ! x\n", b"--- ", b"? ", b"| ", b"---\n", b"\t", b"=", b": ", b"#"),
)
"""What makes readers fail: half characters, depth, length, numbers without end, and each format's own marks."""

_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        2**63,
        10**39,
        1.5,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x" * 3000,
        "\0",
        "\x1b[31m",
    ),
    *([], {}, [[]], {"": 0}, ["a"], {"a": {"a": {}}}, "../../x", "é", "\u202e", "9" * 400, [1] * 500),
)


def damaged(content: bytes, random: Random, count: int) -> Iterator[bytes]:
    """``count`` damaged forms of a file: of its bytes, and each second of its JSON, whole or a line, if it is such."""
    for number in range(count):
        yield (_with_other_json(content, random) if number % 2 else None) or _with_other_bytes(content, random)


def _with_other_json(content: bytes, random: Random) -> bytes | None:
    lines = content.splitlines(keepends=True)
    line = random.randrange(len(lines)) if len(lines) > 1 else 0
    for before, part, after in (
        (b"", content, b""),
        (b"".join(lines[:line]), lines[line], b"".join(lines[line + 1 :])),
    ):
        try:
            value = json.loads(part)
        except ValueError:
            continue
        return before + json.dumps(_with_other_values(value, random)).encode() + b"\n" + after
    return None


def _with_other_bytes(content: bytes, random: Random) -> bytes:
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(data))
        match random.randrange(5):
            case 0:
                data[at:at] = random.choice(_TOKENS)
            case 1 if at < len(data):
                data[at] = random.randrange(256)
            case 2:
                del data[at : at + random.randint(1, 20)]
            case 3:
                data[at:at] = data[max(at - 30, 0) : at] * random.choice((1, 50))
            case _:
                data[at : at + random.randint(0, 8)] = random.choice(_TOKENS)
    return bytes(data[: random.randint(0, len(data))] if random.random() < 0.1 else data)


def _with_other_values(value: Any, random: Random) -> Any:
    changed = copy.deepcopy(value)
    for _ in range(random.randint(1, 3)):
        places = [(None, None), *_places(changed)]
        parent, key = random.choice(places)
        if parent is None:
            return random.choice(_VALUES)
        match random.randrange(4):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[random.choice(("", "x", "\0", "extra"))] = copy.deepcopy(random.choice(_VALUES))
            case _:
                parent[key] = copy.deepcopy(random.choice(_VALUES))
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)
