"""Where everybody may make files, another user's folders and links are refused, and ours are for nobody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.main import run
from pipeline.errors import RetryableError, SettingsError
from pipeline.files import private
from pipeline.files.private import private_folder, require_own, require_own_folder
from pipeline.handoff import Handoff
from tasks.hosts.home_lock import HomeLock


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def other_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is below the test's folder belongs to another user than the one who asks."""
    ours = {path.stat().st_ino for path in (tmp_path, *tmp_path.parents)}
    monkeypatch.setattr(private, "_ours", lambda status: status.st_ino in ours)


def test_what_we_make_there_is_ours_alone(shared: Path) -> None:
    private_folder(shared / "a" / "b")

    assert (shared / "a" / "b").stat().st_mode & 0o777 == 0o700
    private_folder(shared / "a" / "b")


@pytest.mark.parametrize("below", ["theirs", "theirs/below", "link", "link/below"])
def test_another_users_folder_is_refused(shared: Path, other_user: None, below: str, tmp_path: Path) -> None:
    # Given a folder and a link of another user
    (shared / "theirs" / "below").mkdir(parents=True)
    (tmp_path / "far" / "below").mkdir(parents=True)
    (shared / "link").symlink_to(tmp_path / "far")

    # Then nothing is kept there
    with pytest.raises(PermissionError, match="in a folder that everybody may write to"):
        private_folder(shared / below)
    with pytest.raises(RetryableError) as error:
        Handoff.open(shared / below, 1)
    assert error.value.code == "handoff_unavailable"
    with pytest.raises(SettingsError, match="VGEN_HOME"):
        HomeLock(shared / below).acquire()
    assert not any((shared / below).glob("*.id"))


def test_a_link_into_such_a_folder_is_followed(shared: Path, other_user: None, tmp_path: Path) -> None:
    (shared / "theirs").mkdir()
    (tmp_path / "mine").symlink_to(shared / "theirs")

    with pytest.raises(PermissionError):
        require_own_folder(tmp_path / "mine" / "deeper")


def test_a_shared_folder_itself_is_refused(shared: Path) -> None:
    with pytest.raises(PermissionError, match="name a folder inside it"):
        private_folder(shared)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    require_own_folder(tmp_path / "a" / "x")


def test_other_users_folders_elsewhere_are_used(tmp_path: Path, other_user: None) -> None:
    """A colleague may have made it, with permissions for both."""
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "project")

    private_folder(tmp_path / "project")
    private_folder(tmp_path / "link" / "home")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_owners_are_those_of_the_kernel(shared: Path) -> None:
    (shared / "theirs").mkdir()
    os.chown(shared / "theirs", 12345, 12345)
    (shared / "file").touch()
    os.lchown(shared / "file", 12345, 12345)

    with pytest.raises(PermissionError, match="user 12345's"):
        private_folder(shared / "theirs")
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        require_own(shared / "file")
    require_own(shared / "none")


@pytest.mark.parametrize(("umask", "folder", "file"), [(None, 0o700, 0o600), ("027", 0o750, 0o640)])
def test_a_home_is_readable_for_whom_the_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: str | None, folder: int, file: int
) -> None:
    # Given a user whose own files everybody may read
    before = os.umask(0o022)
    home = tmp_path / "home"
    monkeypatch.setenv("VGEN_HOME", str(home))
    if umask is not None:
        monkeypatch.setenv("VGEN_UMASK", umask)

    # When vgen makes a home
    try:
        assert run(["db", "upgrade"]) == 0
        after = os.umask(0o022)
    finally:
        os.umask(before)

    # Then the setting decides, and the caller's own umask is as before
    assert home.stat().st_mode & 0o777 == (folder if umask is None else 0o700)
    assert (home / "vgen.sqlite3").stat().st_mode & 0o777 == file
    assert after == 0o022


def test_a_lock_empties_no_file_that_a_link_leads_to(tmp_path: Path) -> None:
    """A home may have come along with a cloned folder, links included."""
    (tmp_path / "theirs").write_text("keys")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "vgen.lock").symlink_to(tmp_path / "theirs")

    with pytest.raises(SettingsError, match=r"VGEN_HOME .*vgen\.lock is a link"):
        HomeLock(tmp_path / "home").acquire()

    assert (tmp_path / "theirs").read_text() == "keys"


def test_a_lock_is_taken_again_and_holds_the_process(tmp_path: Path) -> None:
    for _ in range(2):
        lock = HomeLock(tmp_path / "home")
        assert lock.acquire()
        assert not HomeLock(tmp_path / "home").acquire()
        assert (tmp_path / "home" / "vgen.lock").read_text() == f"{os.getpid()}\n"
        lock.release()


@pytest.mark.parametrize("suffix", ["rgb", "input0", "e1.mp4", "e1.json", "f32"])
def test_nothing_of_a_clip_is_written_through_a_link(tmp_path: Path, suffix: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("keys")
    handoff = Handoff.open(tmp_path / "handoff", 1000)
    frames = handoff.frames_path("job", 0, 0, 1)
    frames.with_suffix(f".{suffix}").symlink_to(theirs)

    handoff.reserve(frames, 10)

    assert theirs.read_text() == "keys"
    assert not frames.with_suffix(f".{suffix}").is_symlink()


def test_a_row_names_no_frames_outside_the_folder(tmp_path: Path) -> None:
    """What is encoded is removed, with all that has its name."""
    handoff = Handoff.open(tmp_path / "handoff", 1000)

    for path in ("/etc/job.0.0.1.rgb", "../job.0.0.1.rgb", str(handoff.frames_path("job", 0, 0, 1))):
        assert handoff.here(path) == handoff.frames_path("job", 0, 0, 1)
