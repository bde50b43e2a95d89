"""Input images: where they may lie, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.inputs import collector as inputs
from pipeline.inputs.collector import InputCollector
from pipeline.inputs.videos import CheckedVideo, check_video
from pipeline.storage import FolderStorage
from pipeline.storage.inputs import put_input
from tests.videos import write_video


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
        ("https://example.com/a.png", "is a URL, but URLs are not fetched here"),
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


@pytest.mark.parametrize(
    "head",
    [
        *("data:image/jpg;base64", "data:image/pjpeg;base64", "DATA:IMAGE/JPEG;BASE64", "data:image/jpeg;base64"),
        *("data:image/png;charset=utf-8;base64", "data:image/x-png;name=a.png;base64"),
    ],
)
def test_other_names_of_a_data_urls_type_are_known(tmp_path: Path, head: str) -> None:
    data = picture("JPEG")
    text = base64.encodebytes(data).decode()  # with line breaks
    for body in (text, text.replace("+", "%2B").replace("\n", "%0A")):
        ref = InputCollector(tmp_path).resolve(f"{head},{body}")
        assert ref.sha256 == hashlib.sha256(data).hexdigest()
        assert ref.media_type == "image/jpeg"


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    collector = InputCollector(tmp_path, (tmp_path, Path("/dev")))
    for value in ("pipe.png", "zero.png", str(tmp_path)):
        for resolve in (collector.resolve, collector.resolve_video):
            with pytest.raises(ValueError, match="is not a file"):
                resolve(value)


class Swapped(InputCollector):
    """A submitter who puts another thing in the place of the path after it was judged, before it is opened."""

    def __init__(self, folder: Path, swap: Callable[[Path], None]) -> None:
        super().__init__(folder, (folder,))
        self._swap = swap

    def _inside_roots(self, value: str) -> tuple[Path, Path]:
        root, path = super()._inside_roots(value)
        self._swap(path)
        return root, path


@pytest.mark.parametrize("what", ["a link out", "a link of a folder above", "a pipe", "a device"])
def test_a_path_is_judged_as_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    secret, folder = tmp_path / "secret", tmp_path / "in" / "deep"
    secret.mkdir()
    folder.mkdir(parents=True)
    for place in (secret, folder):
        (place / "a.png").write_bytes(picture())

    def swap(path: Path) -> None:
        if what == "a link of a folder above":
            shutil.rmtree(folder)
            folder.symlink_to(secret)
            return
        path.unlink()
        if what == "a pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(secret / "a.png" if what == "a link out" else "/dev/zero")

    with pytest.raises(ValueError, match=r"cannot be read|must be a regular file"):
        Swapped(tmp_path / "in", swap).resolve("deep/a.png")


@pytest.mark.parametrize("size", [0, inputs.MAX_INPUT_BYTES + 1])
def test_a_file_that_is_swapped_after_the_check_is_not_stored(tmp_path: Path, size: int) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, [Image.new("RGB", (32, 32))] * 3)
    with path.open("ab") as file:  # what is behind the last box is of no kind; it makes the file large
        file.write(struct.pack(">I4s", 8 + size, b"free") + bytes(size))
    (tmp_path / "a.png").write_bytes(picture())
    collector = InputCollector(tmp_path)
    refs = [collector.resolve("a.png"), collector.resolve_video("v.mp4")]
    storage = FolderStorage(tmp_path / "store")
    for ref in refs:
        put_input(storage, collector.stored[ref.sha256])
        assert hashlib.sha256(storage.read_bytes(ref.key)).hexdigest() == ref.sha256
        storage.delete(ref.key)

    (tmp_path / "a.png").write_bytes(picture(size=(30, 30)))
    path.write_bytes(path.read_bytes()[:-1] + b"\1" if size else b"x" * path.stat().st_size)

    for ref in refs:
        with pytest.raises(InputError, match=r"was changed after it was checked|larger than"):
            put_input(storage, collector.stored[ref.sha256])
        assert storage.stat(ref.key) is None


def test_the_video_that_is_checked_is_the_one_that_is_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", [Image.new("RGB", (32, 32))] * 3)
    whole = path.read_bytes()

    def check(source: BinaryIO, name: str) -> CheckedVideo:
        path.write_bytes(b"something else")  # in place, while it is being looked at
        return check_video(source, name)

    monkeypatch.setattr(inputs, "check_video", check)
    ref = InputCollector(tmp_path).resolve_video("v.mp4")
    assert ref.sha256 == hashlib.sha256(whole).hexdigest()


def test_names_are_kept_as_people_can_read_them(tmp_path: Path) -> None:
    name = "a\x1b[31m\udcff.png"
    (tmp_path / name).write_bytes(picture())
    assert InputCollector(tmp_path).resolve(name).name == r"a\x1b[31m\udcff.png"
