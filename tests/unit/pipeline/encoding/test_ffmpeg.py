from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.encoding import ffmpeg
from pipeline.encoding.codecs import rational_fps
from pipeline.errors import RefusedError, RetryableError, StoppedError
from pipeline.spec import EncodeOptions
from tests.unit.pipeline.encoding.clips import decode_rgb, moving_picture, psnr, write_raw

LOSSLESS = EncodeOptions(codec="libx264rgb", quality=0, preset="ultrafast")
SIZE = {"width": 96, "height": 64, "num_frames": 9}


def encode(frames: Path, out: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        **SIZE,
        "fps": 24.0,
        "options": EncodeOptions(),
        "metadata": {},
        "check": lambda: None,
        "timeout_s": 60.0,
    }
    ffmpeg.encode(frames, out, **(arguments | changes))
    return out


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "clip.rgb", moving_picture(9, 64, 96))


def children() -> set[str]:
    """Processes that this one has started and not reaped."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_lossless_decodes_to_exactly_the_raw_frames(raw: Path, tmp_path: Path) -> None:
    out = encode(raw, tmp_path / "out.mp4", options=LOSSLESS)
    assert np.array_equal(decode_rgb(out), moving_picture(9, 64, 96))


def test_the_default_codec_loses_no_more_than_plain_ffmpeg(tmp_path: Path) -> None:
    picture = moving_picture(25, 128, 192)
    raw = write_raw(tmp_path / "clip.rgb", picture)
    plain = tmp_path / "plain.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pixel_format", "rgb24"]
    command += ["-video_size", "192x128", "-framerate", "24", "-i", str(raw), "-c:v", "libx264", "-crf", "18"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(plain)], check=True, stdin=subprocess.DEVNULL)

    ours = encode(raw, tmp_path / "ours.mp4", width=192, height=128, num_frames=25)

    assert abs(psnr(decode_rgb(ours), picture) - psnr(decode_rgb(plain), picture)) < 0.1


@pytest.mark.parametrize(
    ("codec", "preset", "name", "tag"),
    [
        ("libx264", "fast", "h264", "avc1"),
        ("libx264rgb", "fast", "h264", "avc1"),
        ("libx265", "ultrafast", "hevc", "hvc1"),
        ("libsvtav1", "10", "av1", "av01"),
    ],
)
def test_two_encodes_are_equal_to_the_byte(
    codec: str, preset: str, name: str, tag: str, raw: Path, tmp_path: Path
) -> None:
    options = EncodeOptions(codec=codec, quality=30, preset=preset)
    first = encode(raw, tmp_path / "first.mp4", options=options)
    time.sleep(1.1)  # a time of writing, kept in seconds, would now differ
    second = encode(raw, tmp_path / "second.mp4", options=options)

    assert first.read_bytes() == second.read_bytes()
    with av.open(str(first)) as container:
        context = container.streams.video[0].codec_context
        assert (context.codec.canonical_name, context.codec_tag) == (name, tag)


def test_the_file_is_tagged_bt709_and_can_start_before_it_is_whole(raw: Path, tmp_path: Path) -> None:
    out = encode(raw, tmp_path / "out.mp4")

    with av.open(str(out)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1)
        assert (context.color_range, frame.format.name) == (1, "yuv420p")
    data = out.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_pure_colours_come_back_by_the_tagged_matrix(tmp_path: Path) -> None:
    picture = np.zeros((2, 32, 32, 3), np.uint8)
    picture[..., 0], picture[..., 1] = 200, 60
    raw = write_raw(tmp_path / "red.rgb", picture)
    out = encode(raw, tmp_path / "out.mp4", width=32, height=32, num_frames=2, options=EncodeOptions(quality=5))
    assert np.abs(decode_rgb(out).astype(int) - picture).max() <= 3


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(24.0, "24"), (29.97, "30000/1001"), (23.976, "24000/1001"), (59.94, "60000/1001"), (12.5, "25/2"), (30.0, "30")],
)
def test_fractional_rates_are_what_they_stand_for(fps: float, rate: str, raw: Path, tmp_path: Path) -> None:
    out = encode(raw, tmp_path / "out.mp4", fps=fps, options=LOSSLESS)

    assert str(rational_fps(fps)) == rate
    with av.open(str(out)) as container:
        assert str(container.streams.video[0].average_rate) == rate


def test_one_frame_is_a_clip(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "one.rgb", moving_picture(1, 64, 96))
    assert len(decode_rgb(encode(raw, tmp_path / "out.mp4", num_frames=1))) == 1


def test_any_prompt_can_be_the_title(raw: Path, tmp_path: Path) -> None:
    prompt = '-y "c\'at" 🎬 שלום = ; # \\ [0:v]\nsecond line'
    out = encode(raw, tmp_path / "-odd name %d.mp4", metadata={"title": prompt + "\0", "comment": '{"seed": 1}'})
    with av.open(str(out)) as container:
        assert container.metadata["title"].rstrip(" ") == prompt
        assert container.metadata["comment"] == '{"seed": 1}'


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"width": 95}, "encode_options", "95x64"),
        ({"options": EncodeOptions(codec="mpeg2video")}, "encoder_missing", "libx264"),
        ({"options": EncodeOptions(quality=52)}, "encode_options", "52"),
        ({"options": EncodeOptions(preset="quick")}, "encode_options", "quick"),
    ],
)
def test_what_can_never_work_is_refused(
    changes: dict[str, Any], code: str, named: str, raw: Path, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=named) as caught:
        encode(raw, tmp_path / "out.mp4", **changes)
    assert caught.value.code == code


def test_rgb_takes_odd_sides(tmp_path: Path) -> None:
    picture = moving_picture(3, 33, 35)
    raw = write_raw(tmp_path / "odd.rgb", picture)
    out = encode(raw, tmp_path / "out.mp4", width=35, height=33, num_frames=3, options=LOSSLESS)
    assert np.array_equal(decode_rgb(out), picture)


@pytest.fixture
def long_raw(tmp_path: Path) -> Path:
    """A clip of 2 GB that takes no space on the disk and far longer to encode than a test may take."""
    path = tmp_path / "long.rgb"
    with path.open("wb") as file:
        file.truncate(1000 * 544 * 1280 * 3)
    return path


LONG: dict[str, Any] = {"width": 1280, "height": 544, "num_frames": 1000, "options": EncodeOptions(preset="placebo")}


def test_cancel_stops_it_and_leaves_neither_process_nor_file(long_raw: Path, tmp_path: Path) -> None:
    before, calls = children(), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            assert children() > before
            raise StoppedError("cancelled")

    with pytest.raises(StoppedError):
        encode(long_raw, tmp_path / "out.mp4", check=check, **LONG)

    assert children() == before
    assert not (tmp_path / "out.mp4").exists()


def test_an_encoder_that_takes_too_long_is_killed(long_raw: Path, tmp_path: Path) -> None:
    before = children()
    with pytest.raises(RetryableError, match="longer than") as caught:
        encode(long_raw, tmp_path / "out.mp4", timeout_s=0.4, **LONG)
    assert caught.value.code == "encoder_timeout"
    assert children() == before


def test_an_encoder_that_is_killed_can_be_tried_again(long_raw: Path, tmp_path: Path) -> None:
    before = children()

    def kill_it() -> None:
        for child in children() - before:
            os.kill(int(child), signal.SIGKILL)

    with pytest.raises(RetryableError, match="signal 9") as caught:
        encode(long_raw, tmp_path / "out.mp4", check=kill_it, **LONG)
    assert caught.value.code == "encoder_failed"
    assert not (tmp_path / "out.mp4").exists()


def test_a_full_disk_is_said(raw: Path) -> None:
    # The kernel's own full disk: each write to it gives ENOSPC.
    link = raw.with_name("full.mp4")
    link.symlink_to("/dev/full")
    with pytest.raises(RetryableError, match="No space left") as caught:
        encode(raw, link)
    assert caught.value.code == "disk_full"
    assert not link.is_symlink()
    assert Path("/dev/full").exists()


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, 64, 96, 3), np.uint8)
    raw = write_raw(tmp_path / "noise.rgb", noise)
    # In a process of its own, since a limit on file size once set holds for the whole process.
    code = f"""
import resource, signal
from pathlib import Path
from pipeline.encoding import ffmpeg
from pipeline.errors import RetryableError
from pipeline.spec import EncodeOptions
ffmpeg.available_codecs()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, {resource.RLIM_INFINITY}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    ffmpeg.encode(Path({str(raw)!r}), Path({str(tmp_path / "out.mp4")!r}), width=96, height=64, num_frames=9, fps=24.0,
                  options=EncodeOptions(codec="libx264rgb", quality=0), metadata={{}}, check=lambda: None, timeout_s=60)
except RetryableError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "disk_full"
    assert not (tmp_path / "out.mp4").exists()


def test_frames_that_end_early_are_corrupt(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(RetryableError) as caught:
        encode(raw, tmp_path / "out.mp4", num_frames=10)
    assert caught.value.code == "frames_corrupt"


def test_frames_that_are_gone_are_lost(tmp_path: Path) -> None:
    with pytest.raises(RetryableError) as caught:
        encode(tmp_path / "none.rgb", tmp_path / "out.mp4")
    assert caught.value.code == "handoff_lost"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("cat > /dev/null", "encoder_failed"),
        ("echo a strange thing >&2; exit 3", "encoder_failed"),
        ("head -c 10 > /dev/null; exit 0", "encoder_failed"),
        ("yes wrong | head -c 300000 >&2; exit 1", "encoder_failed"),
    ],
    ids=["writes nothing", "dies at once", "stops reading", "talks a lot"],
)
def test_an_encoder_that_misbehaves_is_a_failed_try(
    script: str, code: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ffmpeg.available_codecs()  # asked of the real one, and kept
    stand_in = tmp_path / "ffmpeg"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(stand_in))

    with pytest.raises(RetryableError) as caught:
        encode(raw, tmp_path / "out.mp4")
    assert caught.value.code == code
    assert not (tmp_path / "out.mp4").exists()


def test_a_prompt_is_in_the_file_and_in_no_arguments(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given prompts with all that FFmpeg's own format of tags gives a meaning
    commands: list[list[str]] = []
    real = subprocess.Popen

    def recording(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", recording)
    for prompt in ("a=b;c#d\\e f", "; a comment?", "two\nlines", "ends in \\", "[CHAPTER]", "é🦊", "#x", "\\=\\;\\#"):
        # When a clip is encoded with it
        out = encode(raw, tmp_path / "out.mp4", metadata={"title": prompt, "comment": '{"seed": 1, "x": "a=b;#"}'})

        # Then the tags are as they were given
        with av.open(str(out)) as container:
            assert container.metadata["title"] == prompt
            assert container.metadata["comment"] == '{"seed": 1, "x": "a=b;#"}'

    # And nobody on the host could read them
    assert commands
    assert not [word for command in commands for word in command if "seed" in word or "🦊" in word or "title" in word]
