"""The picture that a session may begin with: ``{mime, name, data}``, with the bytes in base64."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.inputs.images import read_image

MAX_BYTES = 32 * 1024 * 1024
MIMES = {"image/png": ".png", "image/jpeg": ".jpg", "image/jpg": ".jpg", "image/webp": ".webp"}
_MAX_NAME = 100


class InitImageError(ValueError):
    """The picture cannot be used; the message names the field and the rule."""


@dataclass(frozen=True, slots=True)
class InitImage:
    """A picture that was decoded once: its bytes, media type, and the name that messages call it by."""

    data: bytes
    mime: str
    display_name: str


def read_init_image(payload: Any) -> InitImage | None:
    """Return the picture of a ``session_init_v2``; None where there is none. It lives in memory and ends with it.

    Raises:
        InitImageError: it is not an object, of another type than PNG, JPEG and WebP, not base64, empty, longer than
            32 MiB, or not a picture of the type that it says.
    """
    if not payload:
        return None
    if not isinstance(payload, dict):
        raise InitImageError("initial_image: is not an object with mime, name and data")
    mime, text = payload.get("mime"), payload.get("data")
    if mime not in MIMES:
        raise InitImageError(f"initial_image.mime: {mime!r:.60} is not one of {', '.join(sorted(MIMES))}")
    if not isinstance(text, str):
        raise InitImageError("initial_image.data: is not text in base64")
    if len(text) > (MAX_BYTES + 3) // 3 * 4:
        raise InitImageError(f"initial_image.data: is longer than {MAX_BYTES} bytes, the most that is accepted")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InitImageError(f"initial_image.data: is not valid base64: {error}") from None
    if not data:
        raise InitImageError("initial_image.data: is empty")
    if len(data) > MAX_BYTES:
        raise InitImageError(f"initial_image.data: has {len(data)} bytes; at most {MAX_BYTES} are accepted")
    name = _display_name(payload.get("name")) or f"init{MIMES[mime]}"
    try:
        read_image(data, name)
    except ValueError as error:
        raise InitImageError(f"initial_image: {error}") from None
    return InitImage(data, "image/jpeg" if mime == "image/jpg" else mime, name)


def _display_name(name: object) -> str:
    """Return the last part of a file's name, of printable characters."""
    if not isinstance(name, str):
        return ""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(character for character in last if character.isprintable())[:_MAX_NAME]
