"""A segment as a stream of chunks that a browser plays while its frames are still being made."""

from pipeline.encoding.live.chunks import Chunk, ChunkKind, LiveEncoder, Mode, Track
from pipeline.encoding.live.fragments import FragmentedMp4Encoder
from pipeline.encoding.live.pictures import PictureEncoder
from pipeline.spec import JobSpec

__all__ = [
    "Chunk",
    "ChunkKind",
    "FragmentedMp4Encoder",
    "LiveEncoder",
    "Mode",
    "PictureEncoder",
    "Track",
    "encoder_for",
    "picture_of",
]


def picture_of(spec: JobSpec, num_frames: int) -> Track:
    """Return what the encoder has to know of a job's segment of so many frames."""
    return Track(spec.width, spec.height, spec.fps, num_frames)


def encoder_for(mode: Mode, track: Track, **options: object) -> LiveEncoder:
    """Return the encoder of a mode; ``options`` are those of its class.

    Raises:
        RetryableError: code ``encoder_failed``; FFmpeg cannot be run.
    """
    if mode is Mode.LEGACY_JPEG:
        options.pop("sound", None), options.pop("silent", None)
        return PictureEncoder(track, **options)  # type: ignore[arg-type]
    return FragmentedMp4Encoder(track, **options)  # type: ignore[arg-type]
