"""The hand-off directory: frames go from the GPU's child process to the encoder of the same host through plain files.

The directory's id, kept in a file inside it, names the encode queue, so that only a worker that can read the frames
is asked to encode them. Files get their full size before the first frame, so that a full disk is found before the GPU
works and not after. On a disk they are allocated. In memory (tmpfs) that would have the kernel clear every page while
the GPU waits; there room is promised instead: what other files of the folder may still grow by counts as used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import failpoints
from pipeline.errors import RefusedError, RetryableError

_ID_FILE = "handoff.id"
_BLOCK = 512
"""Bytes that ``st_blocks`` counts in (POSIX leaves it open, Linux does not)."""
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Handoff:
    """A directory for raw frames with a cap on its size."""

    path: Path
    max_bytes: int
    id: str
    in_memory: bool = False
    """Whether its files lie in memory, where to allocate them takes as long as to write them."""

    @classmethod
    def open(cls, path: Path, max_bytes: int) -> Handoff:
        """Open the directory, making it and its id when they are not there.

        Raises:
            RetryableError: code ``handoff_unavailable``; the folder cannot be made or written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            return cls(path, max_bytes, _read_or_make_id(path), _is_tmpfs(path))
        except OSError as error:
            raise RetryableError(
                f"hand-off folder {path} cannot be used: {error.strerror}", code="handoff_unavailable"
            ) from error

    def frames_path(self, job_id: str, roll: int, segment: int, attempt: int) -> Path:
        """Where one attempt's frames go: the attempt is in the name, so that a stale one never writes here."""
        return self.path / f"{job_id}.{roll}.{segment}.{attempt}.rgb"

    def reserve(self, path: Path, size: int) -> None:
        """Make a file of ``size`` bytes at ``path`` that has room to be written.

        Raises:
            RetryableError: code ``handoff_full`` (the cap is reached) or ``disk_full``.
            RefusedError: code ``handoff_too_small``; the cap is less than this one clip.
        """
        if size > self.max_bytes:
            raise RefusedError(
                f"the clip's frames are {size} bytes, and VGEN_HANDOFF_BYTES allows {self.max_bytes} in all",
                code="handoff_too_small",
            )
        used = self.used_bytes()
        if used + size > self.max_bytes:
            raise RetryableError(
                f"hand-off folder {self.path} holds {used} bytes; {size} more would exceed {self.max_bytes}",
                code="handoff_full",
            )
        try:
            failpoints.hit("frames_reserve")
            if self.in_memory and size > self._unpromised_bytes():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with path.open("wb") as file:
                if self.in_memory:
                    os.ftruncate(file.fileno(), size)
                else:
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            path.unlink(missing_ok=True)
            code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "handoff_unavailable"
            raise RetryableError(f"{size} bytes at {path}: {error.strerror}", code=code) from error

    def has_room(self, size: int) -> bool:
        """Whether so many bytes could be reserved now, as far as the cap goes."""
        return self.used_bytes() + size <= self.max_bytes

    def used_bytes(self) -> int:
        return sum(status.st_size for status in self._files())

    def _unpromised_bytes(self) -> int:
        """What the file system has free, less what files that lie here have no pages for yet."""
        system = os.statvfs(self.path)
        promised = sum(max(0, status.st_size - status.st_blocks * _BLOCK) for status in self._files())
        return system.f_bavail * system.f_frsize - promised

    def _files(self) -> Iterator[os.stat_result]:
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another worker just freed it
                    yield entry.stat()

    def free(self, path: Path) -> None:
        """Remove what belongs to one set of frames: the frames and the files made of them."""
        for leftover in path.parent.glob(f"{path.stem}.*"):
            leftover.unlink(missing_ok=True)

    def empty(self, path: Path) -> None:
        """Give back the room of frames that are encoded; what was made of them stays until it is freed with them."""
        with contextlib.suppress(OSError):
            os.truncate(path, 0)

    def job_ids(self) -> list[str]:
        """The jobs whose frames lie here."""
        return sorted({frames.name.split(".", 1)[0] for frames in self.path.glob("*.rgb")})

    def sweep(self, live_stems: set[str], *, older_than_s: float) -> int:
        """Free every set of frames that is not in ``live_stems`` and was last written so long ago; how many."""
        freed = 0
        for frames in self.path.glob("*.rgb"):
            with contextlib.suppress(FileNotFoundError):
                if frames.stem not in live_stems and time.time() - frames.stat().st_mtime >= older_than_s:
                    self.free(frames)
                    freed += 1
        return freed


def _is_tmpfs(path: Path) -> bool:
    """By the mounts that Linux tells of (proc_pid_mountinfo(5)); elsewhere a folder is taken for one on a disk."""
    device = path.stat().st_dev
    with contextlib.suppress(FileNotFoundError):
        for line in _MOUNTS.read_text(errors="replace").splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return system.split()[0] == "tmpfs"
    return False


def _read_or_make_id(path: Path) -> str:
    """Two processes may open a new folder at once: the one whose link succeeds names it."""
    target = path / _ID_FILE
    if not target.exists():
        draft = path / f".{_ID_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        draft.write_text(secrets.token_hex(6), "utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(draft, target)
        draft.unlink()
    return target.read_text("utf-8").strip()
