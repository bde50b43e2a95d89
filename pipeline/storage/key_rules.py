"""The rules for keys, the same in every form of storage, so that media can move from one to another."""

from __future__ import annotations

from pipeline.errors import RefusedError

MAX_KEY_BYTES = 1024  # Amazon S3's limit for object keys, in UTF-8
MAX_PART_BYTES = 200  # common file systems allow 255; the rest is for the names of temporary files
TEMPORARY = ".vgen-part-"
"""The prefix of temporary files' names; no key may have such a part."""


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
