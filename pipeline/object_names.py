"""Names of stored objects, under the digests of their bytes, and slugs that remind people of a text."""

from __future__ import annotations

import re
import unicodedata

_SLUG_LENGTH = 40


EXTENSIONS = {
    "video/mp4": "mp4",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "application/json": "json",
}


def input_key(sha256: str) -> str:
    """Return where an input's bytes are in the store; the same as ``InputRef.key``."""
    return f"inputs/{sha256}"


def media_key(job_id: str, sha256: str, extension: str = "mp4") -> str:
    """Return where a job's file of that digest is in the store: never shared between jobs, never another file's."""
    return f"media/{job_id}/{sha256}.{extension}"


def state_key(sha256: str) -> str:
    """Return where the frames of a continuation state are in the store: by content, so jobs may share them."""
    return f"states/{sha256}"


def slug(prompt: str) -> str:
    """A short name for a prompt, for people who list a folder: ``[a-z0-9-]``, at most 40 characters, never empty."""
    plain = unicodedata.normalize("NFKD", prompt[:400]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > _SLUG_LENGTH:
        cut = words[: _SLUG_LENGTH + 1]
        words = cut[: cut.rfind("-")] if "-" in cut else cut[:_SLUG_LENGTH]
    return words or "clip"
