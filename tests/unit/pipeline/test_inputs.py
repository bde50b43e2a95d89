"""Input images: where they may lie, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from pipeline import inputs
from pipeline.inputs import InputCollector


def picture(form: str = "PNG", size: tuple[int, int] = (32, 24)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, form)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("form", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_a_picture_is_found_beside_the_prompt_file(tmp_path: Path, form: str, media_type: str) -> None:
    data = picture(form)
    (tmp_path / "a.img").write_bytes(data)
    collector = InputCollector(tmp_path)

    ref = collector.resolve("a.img")

    assert ref.sha256 == hashlib.sha256(data).hexdigest()
    assert (ref.media_type, ref.name) == (media_type, "a.img")
    assert collector.stored[ref.sha256].read() == data
    assert collector.stored[ref.sha256].size == len(data)


def test_a_data_url_is_kept_as_bytes_and_equal_content_once(tmp_path: Path) -> None:
    data = picture()
    (tmp_path / "a.png").write_bytes(data)
    collector = InputCollector(tmp_path)

    by_url = collector.resolve("data:image/png;base64," + base64.b64encode(data).decode())
    by_path = collector.resolve("a.png")

    assert by_url.sha256 == by_path.sha256
    assert list(collector.stored) == [by_url.sha256]
    assert collector.stored[by_url.sha256].read() == data


@pytest.mark.parametrize("cut", [20, 60, -200])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(tmp_path: Path, form: str, cut: int) -> None:
    (tmp_path / "a.img").write_bytes(picture(form)[:cut])
    with pytest.raises(ValueError, match=r"truncated|not a PNG"):
        InputCollector(tmp_path).resolve("a.img")


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header_only(width, height))
    with pytest.raises(ValueError, match="pixels; at most 64000000"):
        InputCollector(tmp_path).resolve("bomb.png")


def test_what_is_not_a_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"hello")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif")
    for name in ("a.png", "a.gif"):
        with pytest.raises(ValueError, match="is not a PNG, JPEG or WebP image"):
            InputCollector(tmp_path).resolve(name)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(inputs.MAX_INPUT_BYTES + 1)
    with pytest.raises(ValueError, match="at most 33554432 are allowed"):
        InputCollector(tmp_path).resolve("a.png")


@pytest.mark.parametrize("value", ["../secret.png", "link.png", "linked/secret.png"])
def test_paths_outside_the_roots_are_refused_links_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "secret.png").write_bytes(picture())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)

    with pytest.raises(ValueError, match=r"outside the allowed folders .* setting input_roots"):
        InputCollector(folder).resolve(value)


def test_a_root_of_the_settings_allows_another_folder_and_no_more(tmp_path: Path) -> None:
    for name in ("in", "allowed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(picture())
    collector = InputCollector(tmp_path / "in", (tmp_path / "allowed",))

    assert collector.resolve("../allowed/a.png").name == "a.png"
    with pytest.raises(ValueError, match="outside"):
        collector.resolve("a.png")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.png", "does not exist"),
        (".", "is not a file"),
        ("x" * 5000, "is not a usable path|does not exist"),
        ("loop", "is not a usable path|does not exist|cannot be read"),
        ("https://example.com/a.png", "is a URL, and none are fetched here"),
        ("file:///etc/passwd", "is a URL"),
        ("data:image/gif;base64,AAAA", "is not of the form"),
        ("data:image/png,plain", "is not of the form"),
        ("data:image/png;base64,%%%", "is not base64"),
        ("data:image/png;base64,AAAA", "is not a PNG"),
    ],
)
def test_other_values_are_refused_with_the_rule(tmp_path: Path, value: str, message: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match=message):
        InputCollector(tmp_path).resolve(value)


def test_the_same_mistake_is_found_again(tmp_path: Path) -> None:
    collector = InputCollector(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="does not exist"):
            collector.resolve("missing.png")
