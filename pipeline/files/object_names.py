"""Names of stored objects, derived from digests, and the rules that names must obey in every store.

And slugs, which remind people of a text.
"""

import re
import unicodedata

from pipeline.errors import RefusedError
from pipeline.files.names import broken_rule

_SLUG_LENGTH = 40
MAX_KEY_BYTES = 1024  # Amazon S3's limit for object keys, in UTF-8
MAX_PART_BYTES = 200  # common file systems allow 255; the rest is for the names of temporary files
TEMPORARY = ".vgen-part-"
"""The prefix of temporary files' names; no key may have such a part."""


MEDIA_TYPES = {"video": "video/mp4", "poster": "image/jpeg", "strip": "image/jpeg", "sidecar": "application/json"}
"""Every kind of file that a clip has, in the order in which they are uploaded."""
SUFFIXES = {"video": "mp4", "poster": "poster.jpg", "strip": "strip.jpg", "sidecar": "json"}
"""The ending of each kind of file, which keeps files of one name apart."""


def media_key(job_id: str, sha256: str, extension: str = "mp4") -> str:
    """Return where a job's file of that digest is in the store: never shared between jobs, never another file's."""
    return f"media/{job_id}/{sha256}.{extension}"


def state_key(sha256: str) -> str:
    """Return where the frames of a continuation state are in the store: by content, so jobs may share them."""
    return f"states/{sha256}"


def slug(prompt: str) -> str:
    """A short name for a prompt, for people who list a folder: letters and digits of any script, and hyphens.

    At most 40 characters, never empty; accents stay, and so do the vowel signs that scripts write as marks. It is
    always safe as a file's name: `com0`, a device on Windows, becomes `clip-com0`.
    """
    plain = unicodedata.normalize("NFKC", prompt[:400]).lower()
    kept = (character if unicodedata.category(character)[0] in "LMN" else "-" for character in plain)
    words = re.sub(r"-+", "-", "".join(kept)).strip("-")
    if len(words) > _SLUG_LENGTH:
        cut = words[: _SLUG_LENGTH + 1]
        words = cut[: cut.rfind("-")] if "-" in cut else cut[:_SLUG_LENGTH]
    name = unicodedata.normalize("NFC", words).strip("-") or "clip"
    return name if broken_rule(name) is None else f"clip-{name}"


def check_key(key: str) -> str:
    """The key itself, when it is a safe relative path.

    Raises:
        RefusedError: code ``storage_key``; the message has the key and the rule it breaks.
    """
    rule = _broken_rule(key)
    if rule is not None:
        raise RefusedError(f"storage key {key[:200]!r}: {rule}", code="storage_key")
    return key


def _broken_rule(key: str) -> str | None:
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "must be valid Unicode"
    if not 0 < size <= MAX_KEY_BYTES:
        return f"must have 1 to {MAX_KEY_BYTES} bytes"
    if not all(character.isprintable() for character in key) or "\\" in key:
        return "must have no control characters and no backslash"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return "must be relative, without empty parts, '.' and '..'"
        if len(part.encode("utf-8")) > MAX_PART_BYTES:
            return f"each part between slashes must have at most {MAX_PART_BYTES} bytes"
        if part.startswith(TEMPORARY):
            return f"no part may begin with {TEMPORARY!r}"
    return None
