"""The live encoders: what they give while frames still come, and the boxes that are read of it."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.encoding.ffmpeg import Sound
from pipeline.encoding.live import Chunk, ChunkKind, FragmentedMp4Encoder, Mode, Track, encoder_for
from pipeline.encoding.live.boxes import FragmentSplitter, Mp4Error, codecs_of, mime_of
from pipeline.errors import FatalError, RetryableError
from pipeline.media.opening import open_media

TRACK = Track(64, 48, 24, 48)


def frame(number: int, track: Track = TRACK) -> bytes:
    values = np.full((track.height, track.width, 3), number * 4 % 256, np.uint8)
    values[:, number % track.width] = 255
    return values.tobytes()


def encoded(track: Track = TRACK, **options: object) -> list[Chunk]:
    chunks: list[Chunk] = []
    encoder = FragmentedMp4Encoder(track, on_chunk=chunks.append, **options)  # type: ignore[arg-type]
    for number in range(track.num_frames):
        encoder.write(frame(number, track))
    assert encoder.finish() == len(chunks) - 1
    return chunks


def decoded(chunks: list[Chunk]) -> tuple[list[tuple[float, bool]], float]:
    """Time and whether it stands alone of each picture; how long the sound is."""
    data = b"".join(chunk.data for chunk in chunks)
    with open_media(io.BytesIO(data)) as container:
        pictures = [(float(shown.pts * shown.time_base), shown.key_frame) for shown in container.decode(video=0)]
    with open_media(io.BytesIO(data)) as container:
        sounds = container.streams.audio
        seconds = sum(shown.samples / shown.sample_rate for shown in container.decode(sounds[0])) if sounds else 0.0
    return pictures, seconds


def test_fragments_last_a_quarter_of_a_second_and_groups_a_second_at_most() -> None:
    chunks = encoded()
    pictures, _ = decoded(chunks)
    assert [chunk.kind for chunk in chunks] == [ChunkKind.INIT, *[ChunkKind.MEDIA] * 8]
    assert [chunk.index for chunk in chunks] == list(range(-1, 8))
    assert [round(time * 24) for time, _ in pictures] == list(range(48))
    alone = [time for time, key in pictures if key]
    assert alone[0] == 0
    assert max(b - a for a, b in zip(alone, [*alone[1:], 2.0], strict=True)) <= 1


def test_the_first_fragment_is_out_while_frames_still_come() -> None:
    out = threading.Event()
    chunks: list[Chunk] = []

    def take(chunk: Chunk) -> None:
        chunks.append(chunk)
        if chunk.kind is ChunkKind.MEDIA:
            out.set()

    encoder = FragmentedMp4Encoder(TRACK, on_chunk=take)
    for number in range(12):
        encoder.write(frame(number))
    assert out.wait(30), "a quarter of a second and more was written, and nothing came"
    for number in range(12, 48):
        encoder.write(frame(number))
    assert encoder.finish() == 8


@pytest.mark.parametrize("fps", [8, 23.976, 24, 30, 120])
def test_each_rate_gives_every_frame(fps: float) -> None:
    pictures, _ = decoded(encoded(Track(32, 32, fps, 30)))
    assert len(pictures) == 30
    assert pictures[-1][0] == pytest.approx(29 / fps, rel=1e-3)


def test_odd_sides_lose_a_line() -> None:
    data = b"".join(chunk.data for chunk in encoded(Track(33, 31, 8, 8)))
    with open_media(io.BytesIO(data)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (32, 30)


def test_silence_is_as_long_as_the_pictures() -> None:
    chunks = encoded(silent=True)
    _, seconds = decoded(chunks)
    assert 2 <= seconds < 2.1
    assert [name.partition(".")[0] for name in codecs_of(chunks[0].data)] == ["avc1", "mp4a"]


@pytest.mark.parametrize("seconds", [1, 3])
def test_sound_is_cut_or_lengthened_to_the_pictures(tmp_path: Path, seconds: int) -> None:
    samples = (0.3 * np.sin(np.arange(16_000 * seconds) / 6)).astype("<f4")
    (tmp_path / "a.sound").write_bytes(samples.tobytes())
    _, heard = decoded(encoded(sound=Sound(tmp_path / "a.sound", 16_000, 1)))
    assert 2 <= heard < 2.1


def test_the_type_is_read_from_the_initialisation() -> None:
    first = encoded()[0]
    place = first.data.index(b"avcC") + 4
    assert first.mime == mime_of(first.data) == f'video/mp4; codecs="avc1.{first.data[place + 1 : place + 4].hex()}"'


def test_a_frame_of_another_size_is_refused() -> None:
    for mode in Mode:
        encoder = encoder_for(mode, TRACK, on_chunk=lambda _: None)
        with pytest.raises(FatalError) as refused:
            encoder.write(b"1234")
        assert refused.value.code == "frames_mismatch"
        encoder.abort()


def test_an_encoder_that_is_aborted_leaves_no_process() -> None:
    encoder = FragmentedMp4Encoder(TRACK, on_chunk=lambda _: None)
    encoder.write(frame(0))
    encoder.abort()
    encoder.abort()
    with pytest.raises(RetryableError):
        encoder.write(frame(1))


def test_who_takes_the_chunks_may_fail() -> None:
    def take(_: Chunk) -> None:
        raise RuntimeError("no room")

    encoder = FragmentedMp4Encoder(TRACK, on_chunk=take)

    def write_all() -> None:
        for number in range(48):
            encoder.write(frame(number))
        encoder.finish()

    with pytest.raises(RetryableError, match="no room") as failed:
        write_all()
    assert failed.value.code == "encoder_failed"


def test_without_ffmpeg_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent/ffmpeg")
    with pytest.raises(RetryableError, match="FFmpeg cannot be run"):
        FragmentedMp4Encoder(TRACK, on_chunk=lambda _: None)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_however_the_bytes_come_the_chunks_are_the_same(size: int) -> None:
    chunks = encoded(Track(32, 32, 8, 8))
    data = b"".join(chunk.data for chunk in chunks)
    splitter = FragmentSplitter()
    parts = [part for start in range(0, len(data), size) for part in splitter.feed(data[start : start + size])]
    assert [whole for _, whole in parts] == [chunk.data for chunk in chunks]


def test_bytes_that_are_not_boxes_are_refused() -> None:
    with pytest.raises(Mp4Error):
        list(FragmentSplitter().feed(b"\0\0\0\3abcdefgh"))
    with pytest.raises(Mp4Error):
        list(FragmentSplitter().feed(b"\xff\xff\xff\xffmdat"))


def test_a_damaged_initialisation_is_refused_and_nothing_else_happens() -> None:
    data = encoded(Track(32, 32, 8, 8), silent=True)[0].data
    codecs_of(data)
    for place in range(len(data)):
        for value in (0, 0x7F, 0xFF):
            damaged = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                codecs_of(damaged)
            except Mp4Error:
                continue
    for length in range(0, len(data), 5):
        try:
            codecs_of(data[:length])
        except Mp4Error:
            continue


@pytest.mark.parametrize(("num_frames", "fps"), [(24, 24.0), (9, 8.0), (49, 16.0)])
def test_silence_makes_a_segment_no_longer_than_its_pictures(num_frames: int, fps: float) -> None:
    chunks = encoded(Track(32, 32, fps, num_frames), silent=True)
    spans: dict[str, list[tuple[float, float]]] = {"video": [], "audio": []}
    with open_media(io.BytesIO(b"".join(chunk.data for chunk in chunks))) as container:
        for packet in container.demux():
            if packet.pts is not None and packet.duration is not None:
                begins, lasts = float(packet.pts * packet.time_base), float(packet.duration * packet.time_base)
                spans[packet.stream.type].append((begins, begins + lasts))
    for of_kind in spans.values():
        assert of_kind[0][0] == 0
        assert of_kind[-1][1] == pytest.approx(num_frames / fps, abs=1e-3)
