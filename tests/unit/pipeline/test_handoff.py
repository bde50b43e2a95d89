from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RetryableError
from pipeline.handoff import Handoff, count_frames, frame_counter, frames_written


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder of its own in shared memory."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no shared memory here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_the_id_stays_with_the_folder(tmp_path: Path) -> None:
    first, second = Handoff.open(tmp_path / "a" / "b", 100), Handoff.open(tmp_path / "a" / "b", 100)
    assert first.id == second.id != ""
    assert Handoff.open(tmp_path / "c", 100).id != first.id


def test_processes_that_open_a_new_folder_at_once_agree(tmp_path: Path) -> None:
    code = "import sys, pathlib, pipeline.handoff as h; print(h.Handoff.open(pathlib.Path(sys.argv[1]), 1).id)"
    command = [sys.executable, "-c", code, str(tmp_path / "h")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ids = {process.communicate(timeout=60)[0].strip() for process in started}
    assert len(ids) == 1
    assert [path.name for path in (tmp_path / "h").iterdir()] == ["handoff.id"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RetryableError, match="file") as caught:
        Handoff.open(tmp_path / "file" / "handoff", 100)
    assert caught.value.code == "handoff_unavailable"


def test_space_is_allocated_before_it_is_needed(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 1_000_000)
    path = handoff.frames_path("job", 0, 0, 1)
    handoff.reserve(path, 500_000)
    assert path.stat().st_size == 500_000
    assert handoff.in_memory or path.stat().st_blocks * 512 >= 500_000


def test_memory_is_promised_once(memory: Path) -> None:
    # Given a folder in memory whose file system has some room
    handoff = Handoff.open(memory, 2**62)
    system = os.statvfs(memory)
    most = system.f_bavail * system.f_frsize * 3 // 5
    first, second = (handoff.frames_path("job", 0, 0, attempt) for attempt in (1, 2))

    # When more than half of it is reserved twice
    handoff.reserve(first, most)
    with pytest.raises(RetryableError) as caught:
        handoff.reserve(second, most)

    # Then the second one hears of it, although no page is in use yet, and finds room once the first is freed
    assert caught.value.code == "disk_full"
    assert first.stat().st_blocks == 0
    assert not second.exists()
    handoff.free(first)
    handoff.reserve(second, most)


def test_what_is_written_is_no_longer_promised(memory: Path) -> None:
    handoff = Handoff.open(memory, 2**62)
    path = handoff.frames_path("job", 0, 0, 1)
    handoff.reserve(path, 3_000_000)
    with path.open("r+b") as file:
        file.write(bytes(3_000_000))

    assert path.stat().st_blocks * 512 >= 3_000_000
    assert handoff.used_bytes() == 3_000_000 + len(handoff.id)


def test_the_cap_holds(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    handoff.reserve(handoff.frames_path("job", 0, 0, 1), 600)
    with pytest.raises(RetryableError, match="1000") as caught:
        handoff.reserve(handoff.frames_path("job", 0, 0, 2), 600)
    assert caught.value.code == "handoff_full"
    assert not handoff.frames_path("job", 0, 0, 2).exists()


def test_room_that_was_taken_becomes_the_frames(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    room, path = handoff.make_reservation(600), handoff.frames_path("job", 0, 0, 1)
    with pytest.raises(RetryableError, match="1000"):
        handoff.make_reservation(600)

    handoff.reserve(path, 500, room)

    assert path.stat().st_size == 500
    assert not room.exists()
    assert handoff.used_bytes() == 500 + len(handoff.id)


def test_room_too_small_for_the_frames_is_given_back(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    room, path = handoff.make_reservation(600), handoff.frames_path("job", 0, 0, 1)

    handoff.reserve(path, 700, room)

    assert path.stat().st_size == 700
    assert not room.exists()


def test_room_that_was_swept_is_looked_for_anew(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    room, path = handoff.make_reservation(600), handoff.frames_path("job", 0, 0, 1)
    assert handoff.sweep(set(), older_than_s=60) == 0
    assert handoff.sweep(set(), older_than_s=0) == 1

    handoff.reserve(path, 600, room)

    assert path.stat().st_size == 600


def test_two_that_see_the_same_room_do_not_both_get_it(tmp_path: Path) -> None:
    # Given room for three clips, and eight processes that wait for the same moment
    handoff = Handoff.open(tmp_path / "handoff", 3 * 1000 + 500)
    code = (
        "import sys, pathlib, pipeline.handoff as h\n"
        "handoff = h.Handoff.open(pathlib.Path(sys.argv[1]), 3500)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n    handoff.make_reservation(1000); print('took')\n"
        "except h.RetryableError as error:\n    print(error.code)"
    )
    command = [sys.executable, "-c", code, str(handoff.path)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(8)
    ]
    assert all(process.stdout is not None and process.stdout.readline() == "ready\n" for process in started)

    # When they all ask at once
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
    said = [process.communicate(timeout=60)[0].strip() for process in started]

    # Then three get it
    assert sorted(said) == ["handoff_full"] * 5 + ["took"] * 3
    assert handoff.used_bytes() <= handoff.max_bytes


def test_a_process_that_froze_while_it_counted_keeps_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.handoff._COUNTING_S", 0.05)
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    with (handoff.path / "handoff.id").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        room = handoff.make_reservation(600)
    assert room.stat().st_size == 600


def test_more_than_the_disk_has_is_a_full_disk(tmp_path: Path) -> None:
    size = 2**62
    handoff = Handoff.open(tmp_path / "handoff", 2 * size)
    path = handoff.frames_path("job", 0, 0, 1)
    with pytest.raises(RetryableError) as caught:
        handoff.reserve(path, size)
    assert caught.value.code in {"disk_full", "handoff_unavailable"}  # some file systems answer EFBIG
    assert not path.exists()


def test_attempts_never_share_a_file(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    names = {handoff.frames_path("job", *numbers) for numbers in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1))}
    assert len(names) == 4


def test_freeing_removes_what_was_made_of_these_frames_only(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    path, other = handoff.frames_path("job", 0, 0, 1), handoff.frames_path("job", 0, 0, 10)
    for name in (path, path.with_suffix(".e1.mp4"), path.with_suffix(".e1.poster.jpg"), other):
        name.write_bytes(b"x")

    handoff.free(path)
    handoff.free(path)

    assert sorted(p.name for p in (tmp_path / "handoff").iterdir()) == ["handoff.id", other.name]


def test_frames_are_counted_where_somebody_asks_for_it(tmp_path: Path) -> None:
    handoff = Handoff.open(tmp_path / "handoff", 10_000)
    frames = handoff.frames_path("job", 1, 0, 1)
    with frame_counter(frames) as count:
        count()
    assert frames_written(frames) == 0
    assert not frames.with_suffix(".written").exists()

    count_frames(frames)
    with frame_counter(frames) as count:
        for number in range(300):
            assert frames_written(frames) == number
            count()
    handoff.free(frames)
    assert not frames.with_suffix(".written").exists()
