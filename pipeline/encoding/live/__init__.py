"""A segment as a stream of chunks that a browser plays while its frames are still being made."""

from pipeline.encoding.live.chunks import Chunk, ChunkKind, LiveEncoder, Mode, Track
from pipeline.encoding.live.fragments import FragmentedMp4Encoder
from pipeline.encoding.live.frames import FrameEncoding, encoder_for, sound_beside
from pipeline.encoding.live.pictures import PictureEncoder

__all__ = [
    "Chunk",
    "ChunkKind",
    "FragmentedMp4Encoder",
    "FrameEncoding",
    "LiveEncoder",
    "Mode",
    "PictureEncoder",
    "Track",
    "encoder_for",
    "sound_beside",
]
