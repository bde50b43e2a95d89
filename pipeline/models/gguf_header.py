"""The header of a GGUF file, walked before the library reads it, which loops over counts that nobody has checked.

The form is that of GGUF's specification, versions 2 and 3, little-endian.
"""

import struct
from pathlib import Path
from typing import BinaryIO

MAX_ITEMS = 4_000_000
"""Values in all arrays together: the largest vocabularies have some hundred thousand words."""
MAX_TENSORS = 100_000
_MAX_KEYS = 10_000
_MAX_TEXT = 16 * 1024 * 1024
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
_MAX_DIMENSIONS = 8
"""The format says four; the patch embeddings of video models have five."""


def check_gguf(path: Path) -> None:
    """Look at everything that comes before the tensors' values.

    Raises:
        ValueError: the sentence on what is wrong, to be read behind the file's name.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if file.read(4) != b"GGUF":
            raise ValueError("is not a GGUF file")
        reader = _Walker(file, size)
        version = reader.number("<I")
        if version not in (2, 3):
            raise ValueError(f"is of GGUF version {version}; 2 and 3 can be read")
        tensors, keys = reader.number("<Q"), reader.number("<Q")
        if tensors > MAX_TENSORS or keys > _MAX_KEYS:
            raise ValueError(f"has {tensors} tensors and {keys} keys; at most {MAX_TENSORS} and {_MAX_KEYS}")
        for _ in range(keys):
            reader.text()
            reader.value(reader.number("<I"), depth=0)
        for _ in range(tensors):
            reader.tensor()


class _Walker:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._items = 0

    def number(self, form: str) -> int:
        data = self._file.read(struct.calcsize(form))
        if len(data) < struct.calcsize(form):
            raise ValueError("is cut: its header has no end")
        return int(struct.unpack(form, data)[0])

    def text(self) -> None:
        length = self.number("<Q")
        if length > _MAX_TEXT:
            raise ValueError(f"has a text of {length} bytes; at most {_MAX_TEXT}")
        self._skip(length)

    def value(self, kind: int, *, depth: int) -> None:
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _TEXT:
            self.text()
        elif kind == _ARRAY and depth < 2:
            inner, count = self.number("<I"), self.number("<Q")
            self._items += count
            if self._items > MAX_ITEMS:
                raise ValueError(f"has arrays of over {MAX_ITEMS} values")
            if inner in _SIZES:
                self._skip(_SIZES[inner] * count)
                return
            for _ in range(count):
                self.value(inner, depth=depth + 1)
        else:
            raise ValueError(f"has a value of the unknown type {kind}")

    def tensor(self) -> None:
        self.text()
        dimensions = self.number("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"has a tensor of {dimensions} dimensions; at most {_MAX_DIMENSIONS}")
        self._skip(8 * dimensions + 4)
        if self.number("<Q") >= self._size:
            raise ValueError("is cut: a tensor begins behind its end")

    def _skip(self, count: int) -> None:
        position = self._file.tell() + count
        if position > self._size:
            raise ValueError("is cut: its header has no end")
        self._file.seek(position)
