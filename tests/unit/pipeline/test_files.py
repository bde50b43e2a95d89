"""Files that users name: whatever the path leads to, the answer is the bytes or one sentence, and never a wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.files.regular import open_regular_file, read_regular_file

WHAT = "the suite"


def pipe(folder: Path) -> str:
    path = folder / "pipe"
    os.mkfifo(path)
    return str(path)


def listening_socket(folder: Path) -> str:
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return str(path)


def link_to_device(folder: Path) -> str:
    path = folder / "prompts.txt"
    path.symlink_to("/dev/zero")
    return str(path)


def dangling_link(folder: Path) -> str:
    path = folder / "dangling"
    path.symlink_to(folder / "nowhere")
    return str(path)


def loop_of_links(folder: Path) -> str:
    path = folder / "loop"
    path.symlink_to(path)
    return str(path)


@pytest.mark.parametrize(
    ("path_of", "words"),
    [
        (lambda folder: "/dev/zero", "a device"),
        (lambda folder: "/dev/null", "a device"),
        (lambda folder: "/dev/random", "a device"),
        (link_to_device, "a device"),
        (str, "a folder"),
        (pipe, "a pipe"),
        (listening_socket, "a socket"),
        (dangling_link, "No such file"),
        (loop_of_links, "Too many levels"),
        (lambda folder: str(folder / "missing"), "No such file"),
        (lambda folder: str(folder / ("a" * 300)), "too long"),
        (lambda folder: str(folder / "nul\0.txt"), "character that no file name can have"),
        (lambda folder: str(folder / "\ud800.txt"), "character that no file name can have"),
        (lambda folder: "/proc/self/mem", "cannot be read"),
    ],
)
def test_what_is_not_a_regular_file_ends_with_one_sentence(
    tmp_path: Path, path_of: Callable[[Path], str], words: str
) -> None:
    path = path_of(tmp_path)

    with pytest.raises(InputError) as caught:
        read_regular_file(path, what=WHAT, limit_bytes=100)

    message = str(caught.value)
    assert words in message
    assert WHAT in message
    assert message.isprintable()
    message.encode()


def test_a_file_of_exactly_the_limit_is_read_and_a_byte_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_bytes(b"x" * 100)

    assert read_regular_file(path, what=WHAT, limit_bytes=100) == b"x" * 100
    with pytest.raises(InputError, match="larger than 99 bytes"):
        read_regular_file(path, what=WHAT, limit_bytes=99)


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(InputError, match="larger than 2 MB"):
        read_regular_file(path, what=WHAT, limit_bytes=2 * 1024 * 1024)


def test_a_file_that_says_it_has_no_bytes_is_read_up_to_the_limit() -> None:
    assert read_regular_file("/proc/self/status", what=WHAT, limit_bytes=100_000).startswith(b"Name:")
    with pytest.raises(InputError, match="larger than 10 bytes"):
        read_regular_file("/proc/self/status", what=WHAT, limit_bytes=10)


def test_an_open_file_can_be_read_and_searched(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(b"0123456789")

    with open_regular_file(path, what=WHAT) as file:
        file.seek(4)
        assert file.read(2) == b"45"
