"""Input videos come out as players show them, and what a clip would not have of them is said or refused."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RefusedError
from pipeline.generators.base import GenerationRequest
from pipeline.generators.input_pictures import read_pictures
from pipeline.inputs import videos
from pipeline.inputs.videos import check_video, read_video
from pipeline.media.opening import UnreadableMediaError
from pipeline.scoring.checks import size
from pipeline.scoring.clip import read_clip
from pipeline.scoring.metric import Context, Expected
from tests.unit.pipeline.test_input_images import spec
from tests.videos import write_video

CORNERS = np.zeros((32, 48, 3), np.uint8)
CORNERS[:16, :24], CORNERS[:16, 24:], CORNERS[16:, :24], CORNERS[16:, 24:] = (
    (200, 30, 30),
    (30, 200, 30),
    (30, 30, 200),
    180,
)
ONE = 65536
MATRICES = [
    (1, 0, 0, 1),
    (0, -1, 1, 0),
    (-1, 0, 0, -1),
    (0, 1, -1, 0),
    (-1, 0, 0, 1),
    (0, -1, -1, 0),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
]


def write(
    path: Path,
    pictures: Sequence[np.ndarray[Any, Any]] = (CORNERS,) * 3,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv444p",
    options: dict[str, str] | None = None,
    matrix: tuple[int, int, int, int] | None = None,
    times: Sequence[int] | None = None,
    **context: Any,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.options = {"qp": "0"} if options is None and codec == "libx264" else options or {}
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if matrix is not None:
            a, b, c, d = (value * ONE for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=context.get("colorspace"))
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frames(path: Path) -> tuple[list[Any], Fraction]:
    read = list(read_video(path))
    return [pixels for pixels, _ in read], read[0][1]


def by_program(path: Path) -> Any:
    """The first frame as FFmpeg's program shows it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-frames:v", "1"]
    done = subprocess.run([*command, "-f", "image2", "-c:v", "png", "-"], capture_output=True, check=True)
    return np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB")).astype(int)


def test_a_matrix_of_zeros_turns_nothing(tmp_path: Path) -> None:
    assert (
        read_clip(write(tmp_path / "v.mp4", matrix=(0, 0, 0, 0))).frames[0]
        == read_clip(write(tmp_path / "u.mp4")).frames[0]
    ).all()


@pytest.mark.parametrize("matrix", MATRICES)
def test_videos_are_turned_as_players_turn_them(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = write(tmp_path / "v.mp4", matrix=matrix)
    (first, *_), aspect = frames(path)
    reference = by_program(path)
    assert first.shape == reference.shape
    assert np.abs(first.astype(int) - reference).max() <= 2
    assert aspect == 1
    assert (read_clip(path).frames[0] == first).all()
    assert check_video(path, "v").notes == ()


def test_the_size_of_a_clip_is_the_one_that_is_shown(tmp_path: Path) -> None:
    turned = read_clip(write(tmp_path / "v.mp4", matrix=(0, 1, -1, 0)))
    wide = read_clip(write(tmp_path / "w.mp4", sample_aspect_ratio=Fraction(4, 3)))
    both = read_clip(write(tmp_path / "b.mp4", matrix=(0, 1, -1, 0), sample_aspect_ratio=Fraction(4, 3)))
    for clip, shown in ((turned, (32, 48)), (wide, (64, 32)), (both, (24, 48))):
        for wanted in ((48, 32), (32, 48), (64, 32), (24, 48)):
            expected = Expected(None, None, *wanted)
            score = size(clip, Context(None, None, None, {}, expected))  # type: ignore[arg-type]
            assert score.passed is (wanted == shown)


def test_a_video_that_is_turned_by_an_odd_angle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(30)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(CORNERS)))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"cannot be used: it is to be turned by \d+ degrees"):
        check_video(path, "v")


def test_pixels_that_are_not_square_reach_the_clip_as_they_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", sample_aspect_ratio=Fraction(2, 1))
    _, aspect = frames(path)
    request = GenerationRequest(spec=spec(96, 32), prompt="p", frames_path=tmp_path / "f", video=path)
    (picture,) = read_pictures(request)["video"]
    assert aspect == 2
    pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels[8, 8] - (200, 30, 30)).max() < 12
    assert np.abs(pixels[24, 88] - 180).max() < 12  # nothing was cut off


@pytest.mark.parametrize(
    ("colorspace", "number"), [("ITU709", 1), ("ITU601", 6), (None, 2)], ids=["BT.709", "BT.601", "unspecified"]
)
@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p10le"])
def test_colours_are_those_of_ffmpegs_program(
    tmp_path: Path, colorspace: str | None, number: int, color_range: int, pix_fmt: str
) -> None:
    path = write(
        tmp_path / "v.mp4", pix_fmt=pix_fmt, codec="libx264", colorspace=number, color_range=color_range, options={}
    )
    (first, *_), _ = frames(path)
    reference = by_program(path)
    inner = np.s_[4:12, 4:20]
    assert np.abs(first[inner].astype(int) - reference[inner]).max() <= 4
    assert check_video(path, "v").notes == ()


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_as_an_input_and_said_of_a_clip(tmp_path: Path, transfer: int, name: str) -> None:
    path = write(tmp_path / "v.mp4", pix_fmt="yuv420p10le", color_trc=transfer, color_primaries=9, colorspace=9)
    with pytest.raises(ValueError, match=f"is HDR, {name}"):
        check_video(path, "v")
    request = GenerationRequest(spec=spec(), prompt="p", frames_path=tmp_path / "f", video=path)
    with pytest.raises(RefusedError, match=f"is HDR, {name}"):
        read_pictures(request)
    assert any(f"is HDR, {name}" in note for note in read_clip(path).notes)


def test_wide_primaries_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", pix_fmt="yuv420p10le", color_trc=14, color_primaries=9, colorspace=9)
    assert check_video(path, "v").notes == (
        "has the primaries of BT.2020: its colours are taken as BT.709, and look paler",
    )


def test_interlaced_videos_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", pix_fmt="yuv420p", options={"x264-params": "tff=1:interlaced=1"})
    assert any("is interlaced" in note for note in check_video(path, "v").notes)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_variable_rate_is_said_and_a_steady_one_not(tmp_path: Path, ending: str) -> None:
    steady = write(tmp_path / f"s.{ending}", (CORNERS,) * 9)
    uneven = write(tmp_path / f"u.{ending}", (CORNERS,) * 5, times=[0, 1, 2, 7, 8])
    assert check_video(steady, "v").notes == ()
    assert any("variable frame rate" in note for note in check_video(uneven, "v").notes)
    ntsc = write_video(tmp_path / f"n.{ending}", [Image.new("RGB", (32, 32))] * 12, fps=Fraction(24000, 1001))  # type: ignore[arg-type]
    assert check_video(ntsc, "v").notes == ()


@pytest.mark.parametrize(("codec", "pix_fmt", "ending"), [("prores_ks", "yuva444p10le", "mov"), ("png", "rgba", "mov")])
def test_transparent_videos_are_shown_on_white_and_said(tmp_path: Path, codec: str, pix_fmt: str, ending: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (32, 48, 4), np.uint8)
    noise[..., 3] = 0
    noise[:, :24] = (0, 0, 0, 255)
    path = write(tmp_path / f"v.{ending}", (noise,) * 2, codec=codec, pix_fmt=pix_fmt)
    (first, *_), _ = frames(path)
    assert first[:, 28:].min() > 240
    assert first[:, :20].max() < 20
    assert check_video(path, "v").notes == ("is transparent in parts: they are shown on white",)


def test_a_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    plain, cover, path = write(tmp_path / "v.mp4"), tmp_path / "c.png", tmp_path / "both.mp4"
    Image.new("RGB", (96, 96), "white").save(cover)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(cover), "-i", str(plain)]
    command += ["-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic", str(path)]
    subprocess.run(command, check=True)
    assert check_video(path, "v").num_frames == 3
    assert read_clip(path).frames.shape == (3, 32, 48, 3)


def growing(tmp_path: Path, small: tuple[int, int], large: tuple[int, int]) -> tuple[Path, Path]:
    """An H.264 stream whose later frames are larger than the first, and the same in an AVI."""
    parts = []
    for number, (width, height) in enumerate((small, large)):
        part = write_video(tmp_path / f"{number}.h264", [Image.new("RGB", (width, height))] * 2)
        parts.append(part.read_bytes())
    raw, path = tmp_path / "v.h264", tmp_path / "v.avi"
    raw.write_bytes(b"".join(parts))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "h264", "-i", str(raw), "-c", "copy"]
    subprocess.run([*command, str(path)], check=True)
    return raw, path


def test_later_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    raw, path = growing(tmp_path, (32, 32), (256, 256))
    with pytest.raises(ValueError, match="frame 2 has another size than the first"):
        check_video(path, "v")
    request = GenerationRequest(
        spec=spec().model_copy(update={"num_frames": 4}), prompt="p", frames_path=tmp_path / "f", video=path
    )
    with pytest.raises(RefusedError, match="another size"):
        read_pictures(request)
    with pytest.raises(RefusedError, match="frame 2 has another size than the first"):
        read_clip(raw)


def test_a_decoder_takes_no_memory_for_frames_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.media.frames.MAX_FRAME_PIXELS", 64 * 64)
    raw, path = growing(tmp_path, (32, 32), (256, 256))
    # The larger frames are never made: the decoder refuses them itself.
    for read in (lambda: len(read_clip(raw).frames), lambda: check_video(path, "v").num_frames):
        with pytest.raises(
            (RefusedError, ValueError), match=r"cannot be decoded|broken at frame 2: it cannot be decoded"
        ):
            read()
    with pytest.raises(UnreadableMediaError):
        list(read_video(path))


def test_a_video_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.mp4")
    monkeypatch.setattr(videos, "MAX_VIDEO_PIXELS", 2 * 48 * 32)
    with pytest.raises(ValueError, match="pixels in all; cut it"):
        check_video(path, "v")


def test_tags_in_another_encoding_are_no_reason_to_refuse(tmp_path: Path) -> None:
    path = write(tmp_path / "v.avi", codec="mpeg4", pix_fmt="yuv420p")
    data = path.read_bytes()
    place = data.index(b"ISFT")
    path.write_bytes(data[: place + 8] + b"caf\xe9" + data[place + 12 :])
    assert check_video(path, "v").num_frames == 3


@pytest.mark.parametrize("seed", range(6))
def test_damaged_videos_are_refused_at_submit_and_on_the_worker_alike(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(write(tmp_path / "v.mp4", options={}).read_bytes())
    for place in random.integers(0, len(data), 8):
        data[place] = random.integers(0, 256)
    path = tmp_path / "d.mp4"
    path.write_bytes(data[: len(data) - int(random.integers(0, 60))])
    try:
        checked = check_video(path, "v")
    except ValueError as error:
        assert "'v' " in str(error)  # noqa: PT017 - either is right
    else:
        assert len(frames(path)[0]) == checked.num_frames
