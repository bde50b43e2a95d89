"""Checks a fastText file before the library sees it: given a truncated one, the library kills the process or hangs.

The layout (version 11 and 12, little endian) is read only as far as lengths and labels need it.
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from pipeline.safety.result import ClassifierError
from pipeline.safety.written_forms import END_OF_LINE, LABEL_PREFIX

MAGIC = 793712314
VERSIONS = (11, 12)
SUPERVISED = 3
_LABEL_KIND = 1
_NGRAMS_ARGUMENT, _MODEL_ARGUMENT, _BUCKET_ARGUMENT, _MAXN_ARGUMENT = 5, 7, 8, 10
_CENTROIDS = 256
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The header of a whole classifier file. ``labels`` are without fastText's prefix."""

    sha256: str
    labels: tuple[str, ...]
    lower_case: bool
    """No word of its dictionary has a capital letter: it was trained on lower case, and knows nothing else."""


def read_model_file(path: Path) -> ModelFile:
    """Check that the file is a whole, supervised fastText model.

    Raises:
        ClassifierError: it cannot be read, is another kind of file, is cut short, or is not a classifier.
    """
    try:
        if not path.is_file():
            raise ClassifierError(f"{path} cannot be read: {'Is a directory' if path.is_dir() else 'it is not a file'}")
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)
            if file.tell() == 0:
                raise ClassifierError(f"{path} is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                labels, lower_case = _Reader(path, data).labels()
    except OSError as error:
        raise ClassifierError(f"{path} cannot be read: {error.strerror}") from error
    return ModelFile(digest.hexdigest(), labels, lower_case)


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def labels(self) -> tuple[tuple[str, ...], bool]:
        """Walk over the whole file; return the labels of its dictionary, and whether its words are in lower case."""
        magic, version = self._take("<ii")
        if magic != MAGIC or version not in VERSIONS:
            raise ClassifierError(f"{self.path} is not a fastText model of version 11 or 12")
        arguments = self._take("<12id")
        if arguments[_MODEL_ARGUMENT] != SUPERVISED:
            raise ClassifierError(f"{self.path} is a fastText model without labels (word vectors), not a classifier")
        words, labels, lower_case = self._dictionary()
        quantised, rows, columns = self._matrix(may_be_quantised=True)
        self._same("columns of the words' vectors", columns, arguments[0])
        buckets = arguments[_BUCKET_ARGUMENT] if arguments[_NGRAMS_ARGUMENT] > 1 or arguments[_MAXN_ARGUMENT] > 0 else 0
        if not quantised and rows < words + buckets:
            raise self._damaged(f"it has {rows} vectors for {words} words and {buckets} groups of letters or words")
        _, rows, columns = self._matrix(may_be_quantised=quantised)
        self._same("columns of the labels' vectors", columns, arguments[0])
        self._same("labels' vectors", rows, len(labels))
        return labels, lower_case

    def _dictionary(self) -> tuple[int, tuple[str, ...], bool]:
        entries, words, labels_declared, _tokens, pruned = self._take("<iiiqq")
        labels = []
        lower_case = True
        for _ in range(entries):
            end = self.data.find(b"\0", self.at)
            if end < 0:
                raise self._cut_short()
            name, self.at = self.data[self.at : end], end + 1
            _count, kind = self._take("<qb")
            if kind == _LABEL_KIND:
                labels.append(name.decode("utf-8", "replace").removeprefix(LABEL_PREFIX))
            elif lower_case and name != END_OF_LINE.encode():
                text = name.decode("utf-8", "replace")
                lower_case = text == text.lower()
        self._same("labels", labels_declared, len(labels))
        self._same("words", words, entries - len(labels))
        self._skip(8 * max(pruned, 0))
        return words, tuple(labels), lower_case

    def _matrix(self, *, may_be_quantised: bool) -> tuple[bool, int, int]:
        """Return whether it is quantised, its rows and its columns."""
        (quantised,) = self._take("<?")
        if not (quantised and may_be_quantised):
            rows, columns = self._take("<qq")
            self._skip(4 * rows * columns)
            return bool(quantised), rows, columns
        norms, rows, columns, codes = self._take("<?qqi")
        self._skip(codes)
        self._quantiser()
        if norms:
            self._skip(rows)
            self._quantiser()
        return True, rows, columns

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

    def _same(self, what: str, declared: int, count: int) -> None:
        if declared != count:
            raise self._damaged(f"it declares {declared} {what}, and there are {count}")

    def _damaged(self, why: str) -> ClassifierError:
        return ClassifierError(f"{self.path} is damaged: {why}")

    def _cut_short(self) -> ClassifierError:
        return ClassifierError(
            f"{self.path} is damaged or cut short: {len(self.data)} bytes are fewer than it declares"
        )
