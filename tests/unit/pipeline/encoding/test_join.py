"""Encoded segments joined without encoding again: every frame is where it was, once."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.encoding import ffmpeg, join
from pipeline.encoding.probe import probe, verify
from pipeline.errors import RetryableError
from pipeline.spec import EncodeOptions
from tests.unit.pipeline.encoding.clips import moving_picture

HEIGHT, WIDTH = 48, 64
COUNTS = (9, 8, 1, 12)


def encoded(folder: Path, fps: float = 8, *, counts: tuple[int, ...] = COUNTS, **options: object) -> list[Path]:
    """One moving picture in as many files as there are counts."""
    frames, paths, begin = moving_picture(sum(counts), HEIGHT, WIDTH), [], 0
    for number, count in enumerate(counts):
        raw, path = folder / f"{number}.rgb", folder / f"{number}.mp4"
        raw.write_bytes(frames[begin : begin + count].tobytes())
        ffmpeg.encode(
            raw,
            path,
            width=WIDTH,
            height=HEIGHT,
            num_frames=count,
            fps=fps,
            options=EncodeOptions.model_validate(options),
            metadata={},
            check=lambda: None,
            timeout_s=60,
        )
        paths.append(path)
        begin += count
    return paths


def pictures(path: Path) -> list[bytes]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in video.decode(video=0)]


@pytest.mark.parametrize(
    ("fps", "options"),
    [(8, {}), (29.97, {"codec": "libx264rgb", "quality": 0}), (24, {"codec": "libx265"}), (16, {"codec": "libsvtav1"})],
    ids=["x264", "lossless", "x265", "av1"],
)
def test_the_joined_video_has_every_segments_pictures_in_order_at_even_times(
    tmp_path: Path, fps: float, options: dict[str, object]
) -> None:
    parts, out = encoded(tmp_path, fps, **options), tmp_path / "joined.mp4"

    join.join(parts, COUNTS, out, metadata={"title": "naïve 雨"})

    assert pictures(out) == [picture for part in parts for picture in pictures(part)]
    facts = probe(out)
    verify(facts, width=WIDTH, height=HEIGHT, num_frames=sum(COUNTS), fps=fps)
    with av.open(str(out)) as video:
        assert video.metadata["title"] == "naïve 雨"
        stream = video.streams.video[0]
        ticks = round(1 / (stream.average_rate * stream.time_base))
        assert [frame.pts for frame in video.decode(stream)] == [place * ticks for place in range(sum(COUNTS))]


def test_the_bytes_depend_on_nothing_else(tmp_path: Path) -> None:
    parts = encoded(tmp_path)
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for out in (first, second):
        join.join(parts, COUNTS, out, metadata={"title": "x"})
    assert first.read_bytes() == second.read_bytes()


def test_a_segment_with_a_frame_too_many_or_of_another_kind_is_not_joined(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    parts, out = encoded(tmp_path, counts=(4, 4)), tmp_path / "joined.mp4"
    (other,) = encoded(tmp_path / "other", codec="libx265", counts=(4,))

    with pytest.raises(RetryableError, match="segment 2 has 4 frames, not 3") as missing:
        join.join(parts, (4, 3), out, metadata={})
    with pytest.raises(RetryableError, match="segment 2 was encoded in another way") as mixed:
        join.join([parts[0], other], (4, 4), out, metadata={})

    assert {missing.value.code, mixed.value.code} == {"encode_mismatch"}
    assert not out.exists()


def test_frames_of_the_joined_video_are_found_by_number(tmp_path: Path) -> None:
    parts, out = encoded(tmp_path, codec="libx264rgb", quality=0), tmp_path / "joined.mp4"
    join.join(parts, COUNTS, out, metadata={})

    found = join.decoded_frames(out, [20, 0, 29])

    frames = moving_picture(sum(COUNTS), HEIGHT, WIDTH)
    assert [np.array_equal(np.asarray(found[place]), frames[index]) for place, index in enumerate((20, 0, 29))]
    with pytest.raises(RetryableError, match="no frame 30"):
        join.decoded_frames(out, [30])
