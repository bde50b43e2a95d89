"""What is special about media in a folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import RefusedError, RetryableError
from pipeline.storage import FolderStorage


def put(storage: FolderStorage, key: str, data: bytes = b"x") -> None:
    storage.put_bytes(key, data, content_type="video/mp4")


def test_a_full_disk_leaves_the_old_object_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FolderStorage(tmp_path / "media")
    put(storage, "a/clip.mp4", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RetryableError, match="No space left") as error:
            put(storage, "a/clip.mp4", b"new")

    assert error.value.code == "disk_full"
    assert storage.read_bytes("a/clip.mp4") == b"old"
    assert [path.name for path in (tmp_path / "media/a").iterdir()] == ["clip.mp4"]


def test_a_folder_that_cannot_be_written_is_denied() -> None:
    storage = FolderStorage(Path("/sys/vgen-media"))  # refuses files, even root's
    with pytest.raises(RefusedError, match="/sys/vgen-media") as error:
        storage.check()
    assert error.value.code == "storage_denied"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    put(storage, "a")
    with pytest.raises(RefusedError) as error:
        put(storage, "a/b")
    assert error.value.code == "storage_key"
    assert storage.stat("a/b") is None


def test_the_last_delete_removes_empty_folders_but_not_the_root(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "media")
    put(storage, "a/b/one")
    put(storage, "a/two")
    storage.delete("a/b/one")
    assert sorted(path.name for path in (tmp_path / "media/a").iterdir()) == ["two"]
    storage.delete("a/two")
    assert list((tmp_path / "media").iterdir()) == []


def test_files_that_a_killed_put_left_are_not_listed(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    put(storage, "a")
    (tmp_path / ".vgen-part-1-00").write_bytes(b"half")
    assert [found.key for found in storage.list("")] == ["a"]


def test_urls_are_percent_encoded(tmp_path: Path) -> None:
    url = FolderStorage(tmp_path / "my media").url("ü #1?.mp4", expires_s=60)
    assert url == f"file://{tmp_path}/my%20media/%C3%BC%20%231%3F.mp4"
