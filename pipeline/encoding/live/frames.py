"""Frames on their way into a live encoder, which is started before it is known what all of them are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.encoding.ffmpeg import Sound
from pipeline.encoding.live.chunks import LiveEncoder, Mode, OnChunk, Track
from pipeline.encoding.live.fragments import FragmentedMp4Encoder
from pipeline.encoding.live.pictures import PictureEncoder
from pipeline.encoding.sound import sample_at
from pipeline.handoff import announced_sound, sound_path


class FrameEncoding:
    """The encoder of one stream, and how many frames it has.

    FFmpeg takes longer to start than a frame takes to be encoded, so it starts before there are any, for pictures
    alone. Where the first frame comes with a sound, or there are more or fewer of them, another one takes its place.

    Raises:
        RetryableError: code ``encoder_failed``; FFmpeg cannot be run.
    """

    def __init__(self, mode: Mode, track: Track, *, on_chunk: OnChunk, silent: bool) -> None:
        self._mode = mode
        self._track = track
        self._on_chunk = on_chunk
        self._silent = silent
        self._sound: Sound | None = None
        self._encoder = self._started()
        self.written = 0
        """How many frames it has taken."""

    @property
    def track(self) -> Track:
        return self._track

    def prepare(self, num_frames: int, sound: Sound | None, *, repeats: int = 0) -> None:
        """Say how many frames there will be, and which sound goes with them; it does nothing after the first frame.

        ``repeats`` frames are the sound's alone: a later segment's sound begins with those that it repeats, and its
        pictures do not.
        """
        track = replace(self._track, num_frames=num_frames)
        sound = None if self._mode is Mode.LEGACY_JPEG else sound
        if self.written or (track, sound) == (self._track, self._sound):
            return
        self._encoder.abort()
        self._track, self._sound = track, sound
        self._encoder = self._started(repeats)

    def write(self, frame: bytes | memoryview) -> None:
        """Take one frame. Raises what ``LiveEncoder.write`` does."""
        self._encoder.write(frame)
        self.written += 1

    def finish(self) -> int:
        """Return how many media chunks there were. Raises what ``LiveEncoder.finish`` does."""
        return self._encoder.finish()

    def abort(self) -> None:
        self._encoder.abort()

    def _started(self, repeats: int = 0) -> LiveEncoder:
        begins = 0 if self._sound is None else sample_at(repeats, self._track.fps, self._sound.sample_rate)
        return encoder_for(
            self._mode,
            self._track,
            on_chunk=self._on_chunk,
            sound=self._sound,
            sound_begins=begins,
            silent=self._silent,
        )


def encoder_for(
    mode: Mode,
    track: Track,
    *,
    on_chunk: OnChunk,
    sound: Sound | None = None,
    sound_begins: int = 0,
    silent: bool = False,
) -> LiveEncoder:
    """Return the encoder of a mode; what is said of sound is for ``FragmentedMp4Encoder`` alone.

    Raises:
        RetryableError: code ``encoder_failed``; FFmpeg cannot be run.
    """
    if mode is Mode.LEGACY_JPEG:
        return PictureEncoder(track, on_chunk=on_chunk)
    return FragmentedMp4Encoder(track, on_chunk=on_chunk, sound=sound, sound_begins=sound_begins, silent=silent)


def sound_beside(frames: Path) -> Sound | None:
    """Return the sound of frames of the hand-off, of which one at least is there; None: they have none."""
    facts = announced_sound(frames)
    return None if facts is None else Sound(sound_path(frames), *facts)
