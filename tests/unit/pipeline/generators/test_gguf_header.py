"""A GGUF file's counts are checked before the library loops over them."""

from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path

import pytest

from pipeline.models.gguf_header import check_gguf
from tests.unit.pipeline.generators.test_quantised import F32, write_gguf


def header(*, version: int = 3, tensors: int = 0, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


KEY = struct.pack("<Q", 1) + b"a"
FILES: dict[str, tuple[bytes, str]] = {
    "another format": (b"PK\x03\x04" + bytes(60), "is not a GGUF file"),
    "empty": (b"", "is not a GGUF file"),
    "version 1": (header(version=1), "version 1"),
    "keys without end": (header(keys=2**60), "keys; at most"),
    "tensors without end": (header(tensors=2**60), "tensors and"),
    "cut in a key": (header(keys=1, rest=struct.pack("<Q", 50) + b"a"), "is cut"),
    "a long key": (header(keys=1, rest=struct.pack("<Q", 2**63)), "has a text of"),
    "an array without end": (header(keys=1, rest=KEY + struct.pack("<IIQ", 9, 0, 2**60)), "arrays of over"),
    "texts without end": (header(keys=1, rest=KEY + struct.pack("<IIQ", 9, 8, 3_000_000)), "is cut"),
    "arrays in arrays": (
        header(keys=1, rest=KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50),
        "unknown type 9",
    ),
    "an unknown type": (header(keys=1, rest=KEY + struct.pack("<I", 99)), "unknown type 99"),
    "many dimensions": (header(tensors=1, rest=KEY + struct.pack("<I", 10**6)), "dimensions; at most"),
    "a tensor behind the end": (
        header(tensors=1, rest=KEY + struct.pack("<IQIQ", 1, 4, 0, 2**50)),
        "a tensor begins behind its end",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_header_that_would_be_read_for_ever_is_refused(tmp_path: Path, kind: str) -> None:
    data, sentence = FILES[kind]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r".") as caught:
        check_gguf(path)
    assert sentence in str(caught.value)


def test_a_whole_file_is_taken_and_a_changed_one_gives_nothing_but_a_sentence(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "whole.gguf", F32)
    check_gguf(path)
    whole, dice = path.read_bytes()[:6000], random.Random(3)
    for _ in range(300):
        changed = bytearray(whole[: dice.randrange(len(whole))])
        for _ in range(dice.randrange(1, 8)):
            if changed:
                changed[dice.randrange(len(changed))] = dice.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(ValueError):  # nothing else, and soon
            check_gguf(path)
