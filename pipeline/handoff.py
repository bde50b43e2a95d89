"""The hand-off directory: frames go from the GPU's child process to the encoder of the same host through plain files.

The directory's id, kept in a file inside it, names the encode queue, so that only a worker that can read the frames
is asked to encode them. Files get their full size before the first frame, so that a full disk is found before the GPU
works and not after. On a disk they are allocated. In memory (tmpfs) that would have the kernel clear every page while
the GPU waits; there room is promised instead: what other files of the folder may still grow by counts as used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline import failpoints
from pipeline.errors import RefusedError, RetryableError
from pipeline.files.private import private_folder

_ID_FILE = "handoff.id"
"""Locked, too, by whoever counts what is used and adds to it."""
_RESERVATION = ".room"
_WRITTEN = ".written"
"""The suffix of the file beside frames that says how many of them are there: whoever watches a clip while it is made
reads on from that."""
_SOUND_FACTS = ".sound-facts"
"""The suffix of the file beside frames that says what their raw sound is."""
_BLOCK = 512
"""Bytes that ``st_blocks`` counts in (POSIX leaves it open, Linux does not)."""
_COUNTING_S, _LOOK_S = 5.0, 0.005
"""It takes a few milliseconds. Who takes so long is frozen, and nobody's GPU waits for that: better a clip too many."""
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Handoff:
    """A directory for raw frames with a cap on its size."""

    path: Path
    max_bytes: int
    id: str
    in_memory: bool = False
    """True if its files lie in memory, where to allocate them takes as long as to write them."""

    @classmethod
    def open(cls, path: Path, max_bytes: int) -> Handoff:
        """Open the directory, making it and its id when they are not there.

        Raises:
            RetryableError: code ``handoff_unavailable``; the folder cannot be made or written, or it may be another
                user's.
        """
        try:
            private_folder(path)
            return cls(path, max_bytes, _read_or_make_id(path), _is_tmpfs(path))
        except OSError as error:
            raise RetryableError(
                f"hand-off folder {path} cannot be used: {error.strerror}", code="handoff_unavailable"
            ) from error

    def frames_path(self, job_id: str, roll: int, segment: int, attempt: int) -> Path:
        """Return where one attempt's frames go: the attempt is in the name, so that a stale one never writes here."""
        return self.path / f"{job_id}.{roll}.{segment}.{attempt}.rgb"

    def here(self, path: str) -> Path:
        """The file of this folder that a row names: only the name counts, since what is encoded is removed."""
        return self.path / Path(path).name

    def make_reservation(self, size: int) -> Path:
        """Make a file that keeps ``size`` bytes for whoever hands it to ``reserve``, or removes it.

        Raises:
            RetryableError, RefusedError: as ``reserve``.
        """
        reservation = self.path / f"{os.getpid()}.{secrets.token_hex(4)}{_RESERVATION}"
        self.reserve(reservation, size)
        return reservation

    def reserve(self, path: Path, size: int, reservation: Path | None = None) -> None:
        """Make a file of ``size`` bytes at ``path`` on reserved space: ``reservation``, if that is large enough.

        Raises:
            RetryableError: code ``handoff_full`` (the cap is reached) or ``disk_full``.
            RefusedError: code ``handoff_too_small``; the cap is less than this one clip.
        """
        if size > self.max_bytes:
            raise RefusedError(
                f"the clip's frames are {size} bytes, and VGEN_HANDOFF_BYTES allows {self.max_bytes} in all",
                code="handoff_too_small",
            )
        try:
            self.drop_links(path)
            with self._counting():
                if reservation is not None and _becomes(reservation, path, size):
                    return
                self._check_cap(size)
                failpoints.hit("frames_reserve")
                self._allocate(path, size)
        except OSError as error:
            path.unlink(missing_ok=True)
            code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "handoff_unavailable"
            raise RetryableError(f"{size} bytes at {path}: {error.strerror}", code=code) from error

    def drop_links(self, path: Path) -> None:
        """Links by the names of what is going to be written: vgen makes none, and they would lead elsewhere."""
        for leftover in path.parent.glob(f"{glob.escape(path.stem)}.*"):
            if leftover.is_symlink():
                leftover.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """One process at a time: else two that see the same room would both take it."""
        with (self.path / _ID_FILE).open("rb") as file:
            until = time.monotonic() + _COUNTING_S
            while not _lock(file) and time.monotonic() < until:
                time.sleep(_LOOK_S)
            yield

    def _check_cap(self, size: int) -> None:
        used = self.used_bytes()
        if used + size > self.max_bytes:
            raise RetryableError(
                f"hand-off folder {self.path} holds {used} bytes; {size} more would exceed {self.max_bytes}",
                code="handoff_full",
            )

    def _allocate(self, path: Path, size: int) -> None:
        if self.in_memory and size > self._unpromised_bytes():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("wb") as file:
            if self.in_memory:
                os.ftruncate(file.fileno(), size)
            else:
                os.posix_fallocate(file.fileno(), 0, size)

    def used_bytes(self) -> int:
        return sum(status.st_size for status in self._files())

    def _unpromised_bytes(self) -> int:
        """Return what the file system has free, less what files that lie here have no pages for yet."""
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
        for leftover in path.parent.glob(f"{glob.escape(path.stem)}.*"):
            leftover.unlink(missing_ok=True)

    def empty(self, path: Path) -> None:
        """Give back the room of frames that are encoded; what was made of them stays until it is freed with them."""
        with contextlib.suppress(OSError):
            os.truncate(path, 0)

    def job_ids(self) -> list[str]:
        """The jobs whose frames lie here."""
        return sorted({frames.name.split(".", 1)[0] for frames in self.path.glob("*.rgb")})

    def sweep(self, live_stems: set[str], *, older_than_s: float) -> int:
        """Free every set of frames that is not in ``live_stems`` and was last written so long ago; how many.

        Room that was taken so long ago is freed too.
        """
        freed = 0
        for frames in (*self.path.glob("*.rgb"), *self.path.glob(f"*{_RESERVATION}")):
            with contextlib.suppress(FileNotFoundError):
                if frames.stem not in live_stems and time.time() - frames.stat().st_mtime >= older_than_s:
                    self.free(frames)
                    freed += 1
        return freed


def count_frames(frames: Path) -> None:
    """Have whoever writes these frames keep count of them, for those who read them meanwhile.

    Raises:
        RetryableError: code ``handoff_unavailable``.
    """
    try:
        frames.with_suffix(_WRITTEN).write_bytes(bytes(8))
    except OSError as error:
        raise RetryableError(f"{frames}: {error.strerror}", code="handoff_unavailable") from error


def frames_written(frames: Path) -> int:
    """Return how many frames are there; 0 where nobody keeps count."""
    try:
        return int.from_bytes(frames.with_suffix(_WRITTEN).read_bytes()[:8], "little")
    except OSError:
        return 0


def sound_path(frames: Path) -> Path:
    """Return where the raw sound of these frames lies: 32-bit floats, little-endian, channels interleaved."""
    return frames.with_suffix(".sound")


def announce_sound(frames: Path, sample_rate: int, channels: int) -> None:
    """Say what the sound of these frames is, for those who read them meanwhile: before the first frame is counted.

    Raises:
        OSError: it cannot be written.
    """
    frames.with_suffix(_SOUND_FACTS).write_text(f"{sample_rate} {channels}", "ascii")


def announced_sound(frames: Path) -> tuple[int, int] | None:
    """Return the samples a second and the channels of the frames' sound, once a frame is there; None: no sound."""
    try:
        sample_rate, channels = frames.with_suffix(_SOUND_FACTS).read_text("ascii").split()
    except OSError:
        return None
    return int(sample_rate), int(channels)


@contextlib.contextmanager
def frame_counter(frames: Path) -> Iterator[Callable[[], None]]:
    """Give what counts one more frame as written; it does nothing where nobody asked for the count."""
    try:
        descriptor = os.open(frames.with_suffix(_WRITTEN), os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:
        yield lambda: None
        return
    count = 0

    def add() -> None:
        nonlocal count
        count += 1
        os.pwrite(descriptor, count.to_bytes(8, "little"), 0)

    try:
        yield add
    finally:
        os.close(descriptor)


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _becomes(reservation: Path, path: Path, size: int) -> bool:
    """Give the room the path and the size, if it is large enough; else nobody has it any more."""
    with contextlib.suppress(FileNotFoundError):  # it was kept for so long that it was swept
        if reservation.stat().st_size >= size:
            os.truncate(reservation, size)
            reservation.rename(path)
            return True
        reservation.unlink()
    return False


def _is_tmpfs(path: Path) -> bool:
    """Read the mounts of Linux (proc_pid_mountinfo(5)); elsewhere a folder is taken for one on a disk."""
    device = path.stat().st_dev
    with contextlib.suppress(FileNotFoundError):
        for line in _MOUNTS.read_text(errors="replace").splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return system.split()[0] == "tmpfs"
    return False


def id_of(path: Path) -> str | None:
    """The id of a hand-off folder; None where no worker of this host has made it yet."""
    try:
        return (path / _ID_FILE).read_text("utf-8").strip() or None
    except OSError:
        return None


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
