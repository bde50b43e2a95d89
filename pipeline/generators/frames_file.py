"""Writes the raw frames into the file that was reserved for them."""

import errno
import hashlib
from collections.abc import Iterable
from io import RawIOBase
from pathlib import Path

from pipeline import failpoints
from pipeline.errors import FatalError, RetryableError
from pipeline.handoff import frame_counter
from pipeline.spec import JobSpec

CHANNELS = 3


def frames_size(spec: JobSpec) -> int:
    """Bytes of a clip's raw frames: F × H × W × 3."""
    return spec.num_frames * spec.height * spec.width * CHANNELS


def write_frames(path: Path, spec: JobSpec, frames: Iterable[bytes | memoryview], *, repeats: int = 0) -> str:
    """Write one frame after the other, without truncating the file; the sha256 of all of them.

    ``repeats`` frames less than the specification's are expected: those that a segment repeats are left out.

    Raises:
        FatalError: code ``frames_mismatch`` when the file was not reserved at the clip's size, or when the frames
            are not exactly as many bytes as the specification says.
        RetryableError: code ``disk_full`` or ``handoff_unavailable``.
    """
    expected = frames_size(spec) // spec.num_frames * (spec.num_frames - repeats)
    digest = hashlib.sha256()
    written = 0
    try:
        with path.open("r+b", buffering=0) as file, frame_counter(path) as count:
            reserved = path.stat().st_size
            if reserved != expected:
                raise FatalError(f"{path.name} has {reserved} bytes, the clip {expected}", code="frames_mismatch")
            for frame in frames:
                written += len(frame)
                if written > expected:
                    raise FatalError(f"the frames exceed {expected} bytes", code="frames_mismatch")
                digest.update(frame)
                failpoints.hit("frames_write")
                _write(file, frame)
                count()
    except FileNotFoundError:
        raise FatalError(f"{path.name} was not reserved", code="frames_mismatch") from None
    except OSError as error:  # reserved room can still be refused, by a quota or a file system that allocates late
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "handoff_unavailable"
        raise RetryableError(f"{path}: {error.strerror}", code=code) from error
    if written != expected:
        raise FatalError(f"the frames are {written} bytes, the clip {expected}", code="frames_mismatch")
    return digest.hexdigest()


def _write(file: RawIOBase, frame: bytes | memoryview) -> None:
    """Write all of it: what is not buffered may be written in parts."""
    rest = memoryview(frame)
    while rest:
        rest = rest[file.write(rest) or 0 :]
