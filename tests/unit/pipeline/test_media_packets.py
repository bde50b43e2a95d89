"""The digest of what a file's streams hold: equal for equal encodings, another for another picture, rate or sound."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.media.opening import UnreadableMediaError, ffmpeg_program
from pipeline.media.packets import packets_sha256


def _made(path: Path, *, rate: int = 8, quality: int = 20, tone: int | None = None, title: str = "") -> Path:
    sound = [] if tone is None else ["-f", "lavfi", "-i", f"sine=frequency={tone}:duration=1"]
    picture = f"testsrc=size=64x48:rate={rate}:duration=1"
    command = [ffmpeg_program(), "-v", "error", "-f", "lavfi", "-i", picture, *sound]
    codecs = ["-c:v", "libx264", "-crf", str(quality), "-threads", "1", "-c:a", "aac", "-metadata", f"title={title}"]
    subprocess.run([*command, *codecs, "-y", str(path)], check=True, timeout=60)
    return path


def test_only_what_is_seen_and_heard_counts(tmp_path: Path) -> None:
    plain = packets_sha256(_made(tmp_path / "a.mp4", tone=440))
    assert packets_sha256(_made(tmp_path / "b.mp4", tone=440, title="another night")) == plain
    others = [
        packets_sha256(_made(tmp_path / f"{number}.mp4", **changes))
        for number, changes in enumerate(({"tone": 440, "rate": 9}, {"tone": 440, "quality": 30}, {"tone": 450}, {}))
    ]
    assert len({plain, *others}) == 5


def test_the_sound_alone(tmp_path: Path) -> None:
    first = packets_sha256(_made(tmp_path / "a.mp4", tone=440), sound_only=True)
    assert first == packets_sha256(_made(tmp_path / "b.mp4", tone=440, quality=30), sound_only=True)
    assert first != packets_sha256(_made(tmp_path / "c.mp4", tone=450), sound_only=True)
    assert packets_sha256(_made(tmp_path / "d.mp4"), sound_only=True) is None


def test_a_file_that_is_no_video_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UnreadableMediaError):
        packets_sha256(tmp_path / "a.mp4")
