"""Digests: of bytes, of values by their canonical JSON, and of a clip by those of its segments."""

import hashlib
import json
from collections.abc import Sequence


def canonical_json(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces, not escaped.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_hex(data: bytes | str) -> str:
    """sha256 of bytes, or of a text's UTF-8, as 64 lower-case hex digits."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def joined_digest(digests: Sequence[str]) -> str:
    """The identity of a clip: of one segment that segment's sha256, of several the sha256 of theirs (32 bytes each)."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()
