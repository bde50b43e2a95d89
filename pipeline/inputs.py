"""Input images, videos and LoRAs: found, checked and digested at submit: the submitter's disk is not the worker's."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from pipeline.input_videos import ACCEPTED_TYPES, MAX_VIDEO_BYTES, check_video
from pipeline.lora_files import MAX_LORA_BYTES, check_lora, from_hub
from pipeline.lora_files import MEDIA_TYPE as LORA_MEDIA_TYPE
from pipeline.spec import InputRef
from pipeline.spellings import existing_spelling
from pipeline.urls import MAX_URL_CHARS, shown_url

if TYPE_CHECKING:
    from pipeline.downloads import Downloader

MAX_INPUT_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64_000_000
"""Checked from the header, before anything is decoded: a small file can unpack to a huge picture."""

_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_DATA_URL = re.compile(r"data:([^;,]*);base64,(.*)", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, slots=True)
class StoredInput:
    """A checked input, to be put in the store under ``inputs/<sha256>``; has either a path or the bytes."""

    sha256: str
    media_type: str
    name: str
    size: int
    path: Path | None = None
    data: bytes | None = None
    num_frames: int | None = None
    folder: Downloads | None = None
    """Where what was fetched lies as long as somebody holds it."""

    @property
    def ref(self) -> InputRef:
        return InputRef(sha256=self.sha256, media_type=self.media_type, name=self.name, num_frames=self.num_frames)

    def read(self) -> bytes:
        """The bytes; the store's checksum finds out when the file has changed since."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        return self.path.read_bytes()


class Downloads:
    """A folder for fetched files that is removed when nobody holds it any more, or at the latest at exit."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="vgen-inputs-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class InputCollector:
    """Finds the inputs that one prompt file names, each once.

    Args:
        folder: relative paths start here: the prompt file's folder.
        roots: a path must lie in one of these, links resolved; empty means ``folder`` and the current folder.
        downloader: makes, at the first URL, what fetches them; None refuses URLs.
    """

    def __init__(
        self, folder: Path, roots: Sequence[Path] = (), downloader: Callable[[], Downloader] | None = None
    ) -> None:
        self._folder = folder
        self._make_downloader = downloader
        self._downloader: Downloader | None = None
        self._downloads: Downloads | None = None
        self._roots = tuple(root.resolve() for root in (roots or (folder, Path.cwd())))
        self._known: dict[tuple[str, str], InputRef | ValueError] = {}
        self._from_hub: dict[str, Path] = {}
        self._commits: dict[str, str] = {}
        self.stored: dict[str, StoredInput] = {}

    def resolve(self, value: str) -> InputRef:
        """The reference for an image: a path, an ``http(s)://`` URL or a ``data:image/…;base64,`` value.

        Raises:
            ValueError: the message has the value and the rule.
        """
        return self._resolve(value, self._image)

    def resolve_video(self, value: str) -> InputRef:
        """The same for a video: a path or an ``http(s)://`` URL."""
        return self._resolve(value, self._video)

    def resolve_lora(
        self, path: str | None, repo: str | None, weight_name: str | None, revision: str | None
    ) -> tuple[InputRef, str | None]:
        """A LoRA's file, of a path (a folder's with ``weight_name``) or of the hub, and there the commit."""
        if path is None:
            key = f"hub:{repo}:{weight_name}:{revision}"
            if key not in self._commits:
                self._from_hub[key], self._commits[key] = from_hub(str(repo), weight_name, revision)
            return self._resolve(key, self._lora), self._commits[key]
        if _URL.match(path):
            raise ValueError(f"{shown_url(path)!r} is a URL; a LoRA is a path, or the id of a repository of the hub")
        return self._resolve(f"{path}/{weight_name}" if weight_name else path, self._lora), None

    def _resolve(self, value: str, load: Callable[[str], StoredInput]) -> InputRef:
        # The digest stands for a long data URL, so that its text is not kept twice.
        short = value if len(value) <= 4096 else hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        key = (load.__name__, short)
        known = self._known.get(key)
        if known is None:
            try:
                stored = load(value)
                self.stored.setdefault(stored.sha256, stored)
                known = stored.ref
            except ValueError as error:
                known = ValueError(str(error))
            self._known[key] = known
        if isinstance(known, ValueError):
            raise known
        return known

    def _image(self, value: str) -> StoredInput:
        if value[:5].lower() == "data:":
            return _stored(_from_data_url(value), "data URL", None)
        path, name, folder = self._located(value, MAX_INPUT_BYTES, _MEDIA_TYPES.values())
        try:
            return replace(_stored(path.read_bytes(), name, path), folder=folder)
        except OSError as error:
            raise ValueError(f"{value[:200]!r} cannot be read: {error.strerror}") from None

    def _video(self, value: str) -> StoredInput:
        if value[:5].lower() == "data:":
            raise ValueError(f"{value[:40]!r}… is a data URL; a video is a path or an http(s) URL")
        path, name, folder = self._located(value, MAX_VIDEO_BYTES, ACCEPTED_TYPES)
        media_type, frames = check_video(path, name)
        digest, size = _digest_of(path, value)
        return StoredInput(digest, media_type, name, size, path, num_frames=frames, folder=folder)

    def _lora(self, value: str) -> StoredInput:
        path = self._from_hub.get(value)
        if path is None:
            path, _, _ = self._located(value, MAX_LORA_BYTES, ())
        check_lora(path, path.name)
        digest, size = _digest_of(path, value)
        return StoredInput(digest, LORA_MEDIA_TYPE, path.name, size, path)

    def _located(self, value: str, max_bytes: int, media_types: Iterable[str]) -> tuple[Path, str, Downloads | None]:
        """A file of at most so many bytes, its name for people, and the folder it lies in when it was fetched."""
        if _URL.match(value):
            return self._fetched(value, max_bytes, media_types)
        path = self._inside_roots(value)
        try:
            if not path.is_file():
                raise ValueError(f"{value[:200]!r} is not a file ({path})")
            size = path.stat().st_size
        except OSError as error:
            raise ValueError(f"{value[:200]!r} cannot be read: {error.strerror}") from None
        if size > max_bytes:
            raise ValueError(f"{value[:200]!r} has {size} bytes; at most {max_bytes} are allowed")
        return path, path.name, None

    def _fetched(self, url: str, max_bytes: int, media_types: Iterable[str]) -> tuple[Path, str, Downloads | None]:
        if self._make_downloader is None:
            raise ValueError(f"{shown_url(url)!r} is a URL, and none are fetched here; give a path or a data URL")
        if len(url) > MAX_URL_CHARS:
            raise ValueError(f"{shown_url(url)!r} has {len(url)} characters; a URL may have {MAX_URL_CHARS}")
        if self._downloads is None or self._downloader is None:
            self._downloads, self._downloader = Downloads(), self._make_downloader()
        path = self._downloads.path / hashlib.sha256(url.encode()).hexdigest()
        self._downloader.fetch(url, path, max_bytes=max_bytes, media_types=media_types)
        return path, shown_url(url), self._downloads

    def _inside_roots(self, value: str) -> Path:
        try:
            path = existing_spelling(self._folder / value).resolve()
            outside = not any(path.is_relative_to(root) for root in self._roots)
            exists = os.path.lexists(path)
        except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
            raise ValueError(f"{value[:200]!r} is not a usable path") from None
        if outside:
            roots = ", ".join(str(root) for root in dict.fromkeys(self._roots))
            raise ValueError(f"{value[:200]!r} is outside the allowed folders ({roots}); see the setting input_roots")
        if not exists:
            raise ValueError(f"{value[:200]!r} does not exist ({path})")
        return path


def _digest_of(path: Path, value: str) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return digest, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ValueError(f"{value[:200]!r} cannot be read: {error.strerror}") from None


def _from_data_url(value: str) -> bytes:
    match = _DATA_URL.fullmatch(value)
    if match is None or match[1].lower() not in _MEDIA_TYPES.values():
        raise ValueError(f"{value[:40]!r}… is not of the form data:image/png|jpeg|webp;base64,…")
    try:
        return base64.b64decode(match[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{value[:40]!r}… is not base64: {error}") from None


def _stored(data: bytes, name: str, path: Path | None) -> StoredInput:
    media_type = _check_image(data, name)
    digest = hashlib.sha256(data).hexdigest()
    return StoredInput(digest, media_type, name, len(data), path, None if path is not None else data)


def _check_image(data: bytes, name: str) -> str:
    """The media type, after decoding every pixel: a truncated file must not wait for a GPU to be found out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit here is ours
            with Image.open(io.BytesIO(data), formats=tuple(_MEDIA_TYPES)) as image:
                _check_pixels(image, name)
                image.load()
                return _MEDIA_TYPES[str(image.format)]
    except _TooLargeError as error:
        raise ValueError(str(error)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name!r} has too many pixels; at most {MAX_PIXELS} are allowed") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name!r} is not a PNG, JPEG or WebP image") from None
    except Exception as error:  # noqa: BLE001 Pillow's decoders raise almost anything on broken data
        raise ValueError(f"{name!r} is broken or truncated: {error}") from None


class _TooLargeError(Exception):
    pass


def _check_pixels(image: Any, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _TooLargeError(f"{name!r} is {width}×{height} pixels; at most {MAX_PIXELS} in all are allowed")
