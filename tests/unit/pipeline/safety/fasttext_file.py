"""Writes small fastText models that the real library loads: it can only predict, so a test cannot train one.

The layout is that of fastText's ``.bin`` files, version 12, little endian:

    int32 magic, int32 version
    int32 dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate; float64 t
    int32 entries, int32 words, int32 labels; int64 tokens; int64 pruned (-1: none)
    per entry: name, NUL, int64 count, int8 kind (0 word, 1 label)
    bool quantised; int64 rows, int64 columns, float32 × rows × columns     (input: a vector per word)
    bool quantised; int64 rows, int64 columns, float32 × rows × columns     (output: a vector per label)

With ``dim`` equal to the number of labels and the identity as output matrix, a word's vector is its logits, a text's
logits are the mean of its known words' vectors, and the scores are their softmax: tests can work them out by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

MAGIC = 793712314
VERSION = 12
SOFTMAX = 3
SUPERVISED = 3
SKIP_GRAM = 2
_WORD, _LABEL = 0, 1


def write_classifier(
    path: Path,
    words: Mapping[str, Sequence[float]],
    labels: Sequence[str] = ("safe", "unsafe"),
    *,
    model: int = SUPERVISED,
) -> Path:
    """Write a model whose every word has one logit per label, in the order of ``labels``; returns ``path``."""
    dim = len(labels)
    arguments = (dim, 5, 1, 1, 5, 1, SOFTMAX, model, 0, 0, 0, 100)
    entries = [_entry(word, _WORD) for word in words] + [_entry(f"__label__{label}", _LABEL) for label in labels]
    identity = [[float(row == column) for column in range(dim)] for row in range(dim)]
    path.write_bytes(
        struct.pack("<ii", MAGIC, VERSION)
        + struct.pack("<12id", *arguments, 1e-4)
        + struct.pack("<iiiqq", len(entries), len(words), dim, len(entries), -1)
        + b"".join(entries)
        + _matrix(list(words.values()), dim)
        + _matrix(identity, dim)
    )
    return path


def write_safety_classifier(path: Path) -> Path:
    """A classifier that knows three words: ``gore`` (score 0.98 unsafe), ``kitten`` (0.98 safe), ``maybe`` (0.5)."""
    return write_classifier(path, {"kitten": (4.0, 0.0), "gore": (0.0, 4.0), "maybe": (0.0, 0.001)})


def _entry(name: str, kind: int) -> bytes:
    return name.encode() + b"\0" + struct.pack("<qb", 1, kind)


def _matrix(rows: Sequence[Sequence[float]], columns: int) -> bytes:
    values = [value for row in rows for value in row]
    return struct.pack("<?qq", False, len(rows), columns) + struct.pack(f"<{len(values)}f", *values)


def write_crashing_classifier(path: Path) -> Path:
    """A whole, quantised file that no check of sizes finds fault with: two words lead the library out of its memory."""
    words, labels, dim = ("kitten", "gore"), ("safe", "unsafe"), 2
    entries = [_entry(word, _WORD) for word in words] + [_entry(f"__label__{label}", _LABEL) for label in labels]
    arguments = (dim, 5, 1, 1, 5, 2, SOFTMAX, SUPERVISED, 1, 0, 0, 100)  # word bigrams, all of them in one bucket
    pruned = struct.pack("<ii", 0, 2**31 - 1)  # that bucket's row
    quantiser = struct.pack("<4i", dim, 1, dim, dim) + bytes(4 * 256 * dim)
    path.write_bytes(
        struct.pack("<ii", MAGIC, VERSION)
        + struct.pack("<12id", *arguments, 1e-4)
        + struct.pack("<iiiqq", len(entries), len(words), dim, len(entries), 1)
        + b"".join(entries)
        + pruned
        + struct.pack("<??qqi", True, False, len(words), dim, len(words))
        + bytes(len(words))
        + quantiser
        + _matrix([[1.0, 0.0], [0.0, 1.0]], dim)
    )
    return path


def _entry(name: str, kind: int) -> bytes:
    return name.encode() + b"\0" + struct.pack("<qb", 1, kind)


def _matrix(rows: Sequence[Sequence[float]], columns: int) -> bytes:
    values = [value for row in rows for value in row]
    return struct.pack("<?qq", False, len(rows), columns) + struct.pack(f"<{len(values)}f", *values)
