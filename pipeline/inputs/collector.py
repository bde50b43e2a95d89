"""Locates, checks and hashes inputs at submit, because workers cannot read the submitter's disk."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import urllib.parse
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.digests import sha256_hex
from pipeline.errors import InputError, Problem
from pipeline.files.digests import stream_sha256
from pipeline.files.names import printable
from pipeline.files.regular import open_regular_file, open_regular_file_below, read_regular_file
from pipeline.files.spellings import existing_spelling
from pipeline.inputs.images import MAX_INPUT_BYTES, MAX_PIXELS, MEDIA_TYPES, read_image
from pipeline.inputs.media_types import plain_type
from pipeline.inputs.videos import MAX_VIDEO_BYTES, VIDEO_TYPES, check_video
from pipeline.models.lora_files import MAX_LORA_BYTES, check_lora, from_hub
from pipeline.models.lora_files import MEDIA_TYPE as LORA_MEDIA_TYPE
from pipeline.redaction import shown_url
from pipeline.spec import InputRef

if TYPE_CHECKING:
    from pipeline.inputs.downloads import Downloader

__all__ = ["MAX_INPUT_BYTES", "MAX_PIXELS", "Downloads", "InputCollector", "StoredInput"]

IMAGE_TYPES = frozenset(MEDIA_TYPES.values())
_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*);base64,(.*)", re.DOTALL | re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_CHUNK = 1024 * 1024
_MAX_URL_CHARS = 8192


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
    """The folder of fetched files, which exists as long as somebody holds it."""
    notes: tuple[str, ...] = ()
    """``InputRef.notes``."""

    @property
    def ref(self) -> InputRef:
        return InputRef(
            sha256=self.sha256, media_type=self.media_type, name=self.name, num_frames=self.num_frames, notes=self.notes
        )

    def read(self) -> bytes:
        """The bytes that were checked. Raises InputError where the file has changed since."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        data = read_regular_file(self.path, what="the input", limit_bytes=self.size)
        self._require(sha256_hex(data))
        return data

    def require_unchanged(self) -> None:
        """Raises InputError where the file is another than the one that was checked."""
        if self.path is not None:
            with open_regular_file(self.path, what="the input") as file:
                self._require(stream_sha256(file)[0])

    def _require(self, sha256: str) -> None:
        if sha256 != self.sha256:
            message = "was changed after it was checked; nothing was stored: submit again"
            raise InputError([Problem(message, str(self.path))])


class Downloads:
    """A folder for fetched files that is removed when nobody holds it any more, or at the latest at exit."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="vgen-inputs-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class InputCollector:
    """Finds the inputs that one prompt file names, each once.

    Args:
        folder: relative paths start here: the prompt file's folder; None refuses paths.
        roots: a path must lie in one of these, links resolved; empty means ``folder`` and the current folder.
        downloader: makes, at the first URL, what fetches them; None refuses URLs.
        files: files that values may name by these names, wherever they lie.
    """

    def __init__(
        self,
        folder: Path | None,
        roots: Sequence[Path] = (),
        downloader: Callable[[], Downloader] | None = None,
        *,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        self._folder = folder
        self._make_downloader = downloader
        self._downloader: Downloader | None = None
        self._downloads: Downloads | None = None
        self._roots = () if folder is None else tuple(root.resolve() for root in (roots or (folder, Path.cwd())))
        self._known: dict[tuple[str, str], InputRef | ValueError] = {}
        self._files: dict[str, Path] = dict(files or {})
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
                self._files[key], self._commits[key] = from_hub(str(repo), weight_name, revision)
            return self._resolve(key, self._lora), self._commits[key]
        if _URL.match(path):
            raise ValueError(f"{shown_url(path)!r} is a URL; a LoRA is a path, or the id of a repository of the hub")
        return self._resolve(f"{path}/{weight_name}" if weight_name else path, self._lora), None

    def _resolve(self, value: str, load: Callable[[str], StoredInput]) -> InputRef:
        # The digest stands for a long data URL, so that its text is not kept twice.
        short = value if len(value) <= 4096 else hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        key = (load.__name__, short)
        cached = self._known.get(key)
        if cached is None:
            try:
                stored = load(value)
                self.stored.setdefault(stored.sha256, stored)
                cached = stored.ref
            except ValueError as error:
                cached = ValueError(str(error))
            self._known[key] = cached
        if isinstance(cached, ValueError):
            raise cached
        return cached

    def _image(self, value: str) -> StoredInput:
        if value[:5].lower() == "data:":
            return _stored_image(_from_data_url(value), "data URL", None, None)
        with self._opened(value, MAX_INPUT_BYTES, IMAGE_TYPES) as source:
            return _stored_image(source.file.read(MAX_INPUT_BYTES + 1), source.name, source.path, source.folder)

    def _video(self, value: str) -> StoredInput:
        if value[:5].lower() == "data:":
            raise ValueError(f"{value[:40]!r}… is a data URL; a video is a path or an http(s) URL")
        # What is checked is what is digested: a copy that nobody else can change.
        with self._opened(value, MAX_VIDEO_BYTES, VIDEO_TYPES.values()) as source, tempfile.TemporaryFile() as copy:
            digest, size = _copied(source.file, copy, MAX_VIDEO_BYTES, source.name)
            checked = check_video(copy, source.name)
            return StoredInput(
                digest,
                checked.media_type,
                source.name,
                size,
                source.path,
                num_frames=checked.num_frames,
                folder=source.folder,
                notes=checked.notes,
            )

    def _lora(self, value: str) -> StoredInput:
        with self._opened(value, MAX_LORA_BYTES, ()) as source:
            # By the number of the open file: what is checked is what is digested, whatever the name leads to by now.
            check_lora(Path(f"/dev/fd/{source.file.fileno()}"), source.name)
            digest, size = stream_sha256(source.file)
            return StoredInput(digest, LORA_MEDIA_TYPE, source.name, size, source.path)

    @contextlib.contextmanager
    def _opened(self, value: str, max_bytes: int, media_types: Iterable[str]) -> Iterator[_Source]:
        """A file of at most so many bytes, open; of a URL, what was fetched. Raises ValueError."""
        path: Path
        folder: Downloads | None
        shown = self._files[value].name if value in self._files else value[:200]
        try:
            if value in self._files:
                path, folder = self._files[value], None
                name, file = path.name, open_regular_file(path, what="it")
            elif _URL.match(value):
                path, folder = self._fetched(value, max_bytes, media_types)
                name, file = shown_url(value), open_regular_file(path, what="it")
            else:
                root, path = self._inside_roots(value)
                folder, name, file = None, printable(path.name), open_regular_file_below(root, path, what="it")
        except InputError as error:
            raise ValueError(f"{shown!r} cannot be used ({path}): {error.problems[0].message}") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise ValueError(f"{shown!r} has {size} bytes; at most {max_bytes} are allowed")
            try:
                yield _Source(file, path, name, folder)
            except OSError as error:
                raise ValueError(f"{shown!r} cannot be read: {error.strerror or error}") from None

    def _fetched(self, url: str, max_bytes: int, media_types: Iterable[str]) -> tuple[Path, Downloads]:
        if self._make_downloader is None:
            raise ValueError(f"{shown_url(url)!r} is a URL, but URLs are not fetched here; give a path or a data URL")
        if len(url) > _MAX_URL_CHARS:
            raise ValueError(f"{shown_url(url)!r} has {len(url)} characters; a URL may have {_MAX_URL_CHARS}")
        if self._downloads is None or self._downloader is None:
            self._downloads, self._downloader = Downloads(), self._make_downloader()
        path = self._downloads.path / sha256_hex(url)
        self._downloader.fetch(url, path, max_bytes=max_bytes, media_types=media_types)
        return path, self._downloads

    def _inside_roots(self, value: str) -> tuple[Path, Path]:
        """The folder that allows the path, and the path with its links resolved."""
        if self._folder is None:
            raise ValueError(f"{value[:200]!r} is a path: upload the file, or give an http(s) URL")
        try:
            path = existing_spelling(self._folder / value).resolve()
            root = next((root for root in self._roots if path.is_relative_to(root)), None)
            exists = os.path.lexists(path)
        except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
            raise ValueError(f"{value[:200]!r} is not a usable path") from None
        if root is None:
            roots = ", ".join(str(root) for root in dict.fromkeys(self._roots))
            raise ValueError(f"{value[:200]!r} is outside the allowed folders ({roots}); see the setting input_roots")
        if not exists:
            raise ValueError(f"{value[:200]!r} does not exist ({path})")
        if not path.is_file():
            raise ValueError(f"{value[:200]!r} is not a file ({path})")
        return root, path


@dataclass(frozen=True, slots=True)
class _Source:
    """An input's file, open, and where it lies."""

    file: BinaryIO
    path: Path
    name: str
    folder: Downloads | None


def _copied(source: BinaryIO, target: BinaryIO, max_bytes: int, value: str) -> tuple[str, int]:
    """Copy a file; the sha256 (hex) and the number of the copied bytes. The copy is at its beginning afterwards."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise ValueError(f"{value[:200]!r} has more than {max_bytes} bytes, the most that are allowed")
        digest.update(chunk)
        target.write(chunk)
    target.seek(0)
    return digest.hexdigest(), size


def _from_data_url(value: str) -> bytes:
    match = _DATA_URL.fullmatch(value)
    if match is None or plain_type(match[1]) not in IMAGE_TYPES:
        raise ValueError(f"{value[:40]!r}… is not of the form data:image/png|jpeg|webp;base64,…")
    # Escapes and line breaks are allowed in a URL and in base64.
    text = urllib.parse.unquote(match[3]) if "%" in match[3] else match[3]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{value[:40]!r}… is not base64: {error}") from None


def _stored_image(data: bytes, name: str, path: Path | None, folder: Downloads | None) -> StoredInput:
    picture = read_image(data, name)
    return StoredInput(
        sha256_hex(data),
        picture.media_type,
        name,
        len(data),
        path,
        None if path is not None else data,
        folder=folder,
        notes=picture.notes,
    )
