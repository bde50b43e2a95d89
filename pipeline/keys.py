"""Names and digests: canonical JSON, derived seeds, ids of batches and jobs, keys of stored media."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
import unicodedata
from collections.abc import Sequence

from pipeline.spec import MAX_SEED

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: no i, l, o or u, and in the order of ASCII, so that text sorts as numbers do."""

_TIME_CHARS = 9
"""9 × 5 bits hold the milliseconds since 1970 until the year 3084."""
_RANDOM_CHARS = 4
_SLUG_LENGTH = 40

EXTENSIONS = {
    "video/mp4": "mp4",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "application/json": "json",
}


def canonical_json(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces, not escaped.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_hex(data: bytes | str) -> str:
    """sha256 of bytes, or of a text's UTF-8, as 64 lower-case hex digits."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def derive_seed(fingerprint: str, line: int, variant: int) -> int:
    """The seed of a job that was given none, in ``0 .. 2**63 - 1``: the same file has the same seeds every time."""
    digest = hashlib.sha256(f"{fingerprint}:{line}:{variant}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


def segment_seed(seed: int, segment: int) -> int:
    """The seed of a clip's segment: the clip's own for the first, so that it is the clip of one segment."""
    if segment == 0:
        return seed
    digest = hashlib.sha256(f"{seed}:segment:{segment}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


def roll_seed(seed: int, roll: int) -> int:
    """The seed of a job's roll: its own for the first, a derived one for each further roll.

    Not ``seed + 1``, which in a line with seeds 1 to 4 is the next job's.
    """
    return seed if roll == 1 else derive_seed(f"roll:{seed}", roll, 0)


def new_batch_id() -> str:
    """13 characters of Crockford's base 32 that sort by time: 9 of milliseconds, then 4 random ones."""
    value = time.time_ns() // 1_000_000
    random = secrets.randbits(5 * _RANDOM_CHARS)
    return _base32(value, _TIME_CHARS) + _base32(random, _RANDOM_CHARS)


def job_id(batch_id: str, seq: int) -> str:
    """The id of a batch's job; ``seq`` counts from 0 or 1 as the caller likes and is never used twice in a batch."""
    return f"{batch_id}-{seq:06d}"


def input_key(sha256: str) -> str:
    """Return where an input's bytes are in the store; the same as ``InputRef.key``."""
    return f"inputs/{sha256}"


def media_key(job_id: str, sha256: str, extension: str = "mp4") -> str:
    """Return where a job's file of that digest is in the store: never shared between jobs, never another file's."""
    return f"media/{job_id}/{sha256}.{extension}"


def state_key(sha256: str) -> str:
    """Return where the frames of a continuation state are in the store: by content, so jobs may share them."""
    return f"states/{sha256}"


def joined_digest(digests: Sequence[str]) -> str:
    """The identity of a clip: of one segment that segment's sha256, of several the sha256 of theirs (32 bytes each)."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def slug(prompt: str) -> str:
    """A short name for a prompt, for people who list a folder: ``[a-z0-9-]``, at most 40 characters, never empty."""
    plain = unicodedata.normalize("NFKD", prompt[:400]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > _SLUG_LENGTH:
        cut = words[: _SLUG_LENGTH + 1]
        words = cut[: cut.rfind("-")] if "-" in cut else cut[:_SLUG_LENGTH]
    return words or "clip"


def _base32(value: int, length: int) -> str:
    chars = [CROCKFORD[value >> (5 * place) & 31] for place in reversed(range(length))]
    return "".join(chars)
