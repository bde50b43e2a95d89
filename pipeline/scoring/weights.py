"""Find weight files on this machine, check that they are the official ones, and download them.

Looked up in this order: the weights directory (by official name, by its place in VBench's cache, by hub id as
``owner/name`` or ``owner--name``), then the local hub cache. Only ``pull`` uses the network.
"""

import json
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

from huggingface_hub import try_to_load_from_cache

from pipeline.errors import NotFoundError, RefusedError, ServiceUnavailableError
from pipeline.files.digests import file_sha256
from pipeline.files.disk_errors import is_of_own_disk, translate_os_error
from pipeline.files.drafts import draft_of
from pipeline.models.hub import download
from pipeline.scoring.weight_files import WEIGHT_FILES, WeightFile

NO_DIRECTORY = "no weights directory is set (VGEN_EVAL_WEIGHTS_DIR, --weights)"
_CHUNK = 1 << 20
_TIMEOUT_S = 60.0
"""Longest time without a byte."""
_GRACE_S = 600.0
_SLOWEST = 50_000
"""Bytes a second, over the whole download: a server that drips is given up."""
_MAX_ARCHIVE = 1024**3
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class WeightStatus(StrEnum):
    """The result of ``check``."""

    OFFICIAL = "official"
    OTHER = "other"
    """There, with another digest than the official file: own weights, or a damaged copy."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """A file on this disk. ``hub`` is True for transformers' layout: then ``path`` lies in a folder of its own."""

    file: WeightFile
    path: Path
    hub: bool = False


@dataclass(frozen=True, slots=True)
class WeightCheck:
    """A file's state; ``sha256`` is None where it is missing."""

    file: WeightFile
    status: WeightStatus
    path: Path | None
    sha256: str | None
    problem: str | None


@dataclass
class Weights:
    """The weights directory and the caches behind it.

    ``digests`` is where digests of large files are remembered, by path, size and time of change; None remembers none.
    """

    directory: Path | None = None
    digests: Path | None = None
    _known: dict[str, str] = field(default_factory=dict, repr=False)

    def find(self, name: str) -> FoundWeights | None:
        """The official file's weights, or None."""
        file = WEIGHT_FILES[name]
        for path in self._own_places(file):
            if path.is_file():
                return FoundWeights(file, path)
        for folder in self._hub_folders(file):
            for name_in_hub in _HUB_FILES:
                if (folder / name_in_hub).is_file():
                    return FoundWeights(file, folder / name_in_hub, hub=True)
        return self._in_hub_cache(file)

    def require(self, name: str) -> FoundWeights:
        """Return the file's path, or raise as ``find`` does.

        Raises:
            RefusedError: code ``eval_weights_missing``; the message says where it was looked for.
        """
        weights = self.find(name)
        if weights is None:
            raise RefusedError(f"{name} is not on this machine: {self.where(name)}", code="eval_weights_missing")
        return weights

    def missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.find(name) is None]

    def where(self, name: str) -> str:
        """Return where it is looked for, and how it gets here."""
        file = WEIGHT_FILES[name]
        places = [str(path) for path in (*self._own_places(file)[:1], *self._hub_folders(file)[:1])]
        if file.hub:
            places.append(f"the hub cache for {file.hub}")
        looked = [f"looked in {', '.join(places)}"] if places else []
        if self.directory is None:
            looked.insert(0, NO_DIRECTORY)
        if file.sha256 or file.is_folder:
            return f"{'; '.join(looked)}; `vgen eval weights pull {name}`"
        return f"{'; '.join(looked)}; {_by_hand(file)}"

    def digest(self, weights: FoundWeights) -> str:
        """sha256 of the file, in hex; computed once while the file does not change."""
        stat = weights.path.stat()
        key = f"{weights.path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if not self._known and self.digests is not None and self.digests.is_file():
            self._known.update(_read_digests(self.digests))
        if key not in self._known:
            self._known[key] = file_sha256(weights.path)
            if self.digests is not None:
                self.digests.parent.mkdir(parents=True, exist_ok=True)
                with draft_of(self.digests) as draft:
                    draft.write_text(json.dumps(self._known, indent=1, sort_keys=True), "utf-8")
        return self._known[key]

    def check(self, name: str) -> WeightCheck:
        """Return whether the file is there, and is the official one. Reads it whole."""
        file = WEIGHT_FILES[name]
        weights = self.find(name)
        if weights is None:
            return WeightCheck(file, WeightStatus.MISSING, None, None, self.where(name))
        digest = self.digest(weights)
        if digest == file.sha256:
            return WeightCheck(file, WeightStatus.OFFICIAL, weights.path, digest, None)
        if weights.hub:
            problem = f"hub weights of {file.hub}: no official digest to compare with"
        elif not file.sha256:
            problem = f"sha256 {digest}: no official digest to compare with"
        else:
            size = weights.path.stat().st_size
            problem = f"{size} bytes, sha256 {digest[:12]}…; the official file has {file.size}, {file.sha256[:12]}…"
        return WeightCheck(file, WeightStatus.OTHER, weights.path, digest, problem)

    def pull(self, name: str, tell: Callable[[str], None] = lambda _: None) -> Path:
        """Download official weights into the weights directory, if they are not there, and verify a file.

        ``tell`` is given a sentence on the size of a folder of the hub before it is downloaded.

        Raises:
            NotFoundError: no weights directory is set, the source has no such file, or the file is fetched by hand,
                since no digest of it is known.
            ServiceUnavailableError: the source cannot be reached, or gave other bytes than the official ones.
            StageError: a file cannot be written, as on a full disk.
        """
        file = WEIGHT_FILES[name]
        if self.directory is None:
            raise NotFoundError("no weights directory is set: VGEN_EVAL_WEIGHTS_DIR or --weights says where to")
        if file.hub is not None and file.is_folder:
            folder = self.directory / file.hub
            download(file.hub, "main", _files_of_model, tell, folder)
            return folder
        if not file.sha256:
            raise NotFoundError(f"{name} cannot be verified: {_by_hand(file)}")
        target = self.directory / name
        if target.is_file() and file_sha256(target) == file.sha256:
            return target
        self.directory.mkdir(parents=True, exist_ok=True)
        with draft_of(target) as draft:
            _download(file, draft)
            digest = file_sha256(draft)
            if digest != file.sha256:
                size = draft.stat().st_size
                official = f"{file.size} bytes and {file.sha256}"
                raise ServiceUnavailableError(
                    f"{file.url} gave {size} bytes with sha256 {digest}; the official file has {official}"
                )
        return target

    def _own_places(self, file: WeightFile) -> list[Path]:
        return [] if self.directory is None else [self.directory / file.name, self.directory / file.cached_as]

    def _hub_folders(self, file: WeightFile) -> list[Path]:
        if self.directory is None or file.hub is None:
            return []
        return [self.directory / file.hub, self.directory / file.hub.replace("/", "--")]

    @staticmethod
    def _in_hub_cache(file: WeightFile) -> FoundWeights | None:
        if file.hub is None:
            return None
        for name in _HUB_FILES:
            cached = try_to_load_from_cache(file.hub, name)
            if isinstance(cached, str):
                return FoundWeights(file, Path(cached), hub=True)
        return None


def _by_hand(file: WeightFile) -> str:
    where = "" if file.member is None else " and unpack it there"
    return f"no sha256 of it is published: fetch {file.url} into the weights directory yourself{where}"


def _files_of_model(names: Collection[str]) -> list[str]:
    """What transformers reads of a repository's files: one form of the weights, configuration and vocabulary."""
    weights = next((name for name in _HUB_FILES if name in names), _HUB_FILES[0])
    return [weights, *(name for name in names if "/" not in name and name.endswith((".json", ".txt")))]


def _download(file: WeightFile, target: Path) -> None:
    deadline = time.monotonic() + _GRACE_S + file.size / _SLOWEST
    fetched = target if file.member is None else target.with_name(f"{target.name}.zip")
    try:
        request = urllib.request.Request(file.url, headers={"User-Agent": "vgen"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as source, fetched.open("wb") as sink:
            _copy(source, sink, _MAX_ARCHIVE if file.member else file.size, deadline)
        if file.member is not None:
            with zipfile.ZipFile(fetched) as archive, archive.open(file.member) as member, target.open("wb") as sink:
                _copy(member, sink, file.size, deadline)
    except urllib.error.HTTPError as error:
        raise NotFoundError(f"{file.url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise ServiceUnavailableError(f"{file.url}: {error.reason}") from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise ServiceUnavailableError(f"{file.url}: no archive that holds {file.member}") from error
    except OSError as error:
        if is_of_own_disk(error):
            raise translate_os_error(error, target.parent) from error
        raise ServiceUnavailableError(f"{file.url}: {error}") from error
    finally:
        if fetched != target:
            fetched.unlink(missing_ok=True)


def _copy(source: IO[bytes], sink: IO[bytes], max_bytes: int, deadline: float) -> None:
    """Raises OSError for more bytes than there can be, and when they come so slowly that they never end."""
    bytes_left = max_bytes
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)  # what has come, not what will
    while chunk := read(_CHUNK):
        bytes_left -= len(chunk)
        if bytes_left < 0:
            raise OSError(f"has more than {max_bytes} bytes, which the official file has not")
        if time.monotonic() > deadline:
            raise OSError(f"gives less than {_SLOWEST} bytes a second")
        sink.write(chunk)


def _read_digests(path: Path) -> dict[str, str]:
    try:
        digests = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # only a memory of what can be computed again
    return {str(key): str(value) for key, value in digests.items()} if isinstance(digests, dict) else {}
