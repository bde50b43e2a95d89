"""Checks a fastText file before the library sees it: given a truncated one, the library kills the process or hangs.

The layout (version 11 and 12, little endian) is read only as far as lengths and labels need it.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from pipeline.safety.result import ClassifierError

MAGIC = 793712314
VERSIONS = (11, 12)
SUPERVISED = 3
LABEL_PREFIX = "__label__"
"""fastText's default; the file does not store another one, so the library can use no other."""
_LABEL_KIND = 1
_MODEL_ARGUMENT = 7
_CENTROIDS = 256
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a whole classifier file says of itself. ``labels`` are without fastText's prefix."""

    sha256: str
    labels: tuple[str, ...]


def read_model_file(path: Path) -> ModelFile:
    """Check that the file is a whole, supervised fastText model.

    Raises:
        ClassifierError: it cannot be read, is another kind of file, is cut short, or is not a classifier.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)
            if file.tell() == 0:
                raise ClassifierError(f"{path} is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                labels = _Reader(path, data).labels()
    except OSError as error:
        raise ClassifierError(f"{path} cannot be read: {error.strerror}") from error
    return ModelFile(digest.hexdigest(), labels)


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def labels(self) -> tuple[str, ...]:
        """Walk over the whole file; return the labels of its dictionary."""
        magic, version = self._take("<ii")
        if magic != MAGIC or version not in VERSIONS:
            raise ClassifierError(f"{self.path} is not a fastText model of version 11 or 12")
        if self._take("<12id")[_MODEL_ARGUMENT] != SUPERVISED:
            raise ClassifierError(f"{self.path} is a fastText model without labels (word vectors), not a classifier")
        labels = self._dictionary()
        quantised = self._matrix(may_be_quantised=True)
        self._matrix(may_be_quantised=quantised)
        return labels

    def _dictionary(self) -> tuple[str, ...]:
        entries, _words, _labels, _tokens, pruned = self._take("<iiiqq")
        labels = []
        for _ in range(entries):
            end = self.data.find(b"\0", self.at)
            if end < 0:
                raise self._cut_short()
            name, self.at = self.data[self.at : end], end + 1
            _count, kind = self._take("<qb")
            if kind == _LABEL_KIND:
                labels.append(name.decode("utf-8", "replace").removeprefix(LABEL_PREFIX))
        self._skip(8 * max(pruned, 0))
        return tuple(labels)

    def _matrix(self, *, may_be_quantised: bool) -> bool:
        (quantised,) = self._take("<?")
        if not (quantised and may_be_quantised):
            rows, columns = self._take("<qq")
            self._skip(4 * rows * columns)
            return bool(quantised)
        norms, rows, _columns, codes = self._take("<?qqi")
        self._skip(codes)
        self._quantiser()
        if norms:
            self._skip(rows)
            self._quantiser()
        return True

    def _quantiser(self) -> None:
        dim, _parts, _width, _last = self._take("<4i")
        self._skip(4 * _CENTROIDS * dim)

    def _take(self, layout: str) -> tuple[int, ...]:
        start = self.at
        self._skip(struct.calcsize(layout))
        return struct.unpack(layout, self.data[start : self.at])

    def _skip(self, size: int) -> None:
        self.at += size
        if size < 0 or self.at > len(self.data):
            raise self._cut_short()

    def _cut_short(self) -> ClassifierError:
        return ClassifierError(
            f"{self.path} is damaged or cut short: {len(self.data)} bytes are fewer than it declares"
        )
