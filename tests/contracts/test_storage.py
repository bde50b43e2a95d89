"""What every form of storage promises, on real ones: a folder, moto and rclone."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import boto3.session
import pytest

from pipeline.errors import NotFoundError, RefusedError, RetryableError
from pipeline.settings import Settings
from pipeline.storage import Storage
from pipeline.wiring import make_storage
from tests import servers
from tests.servers import Bucket, Server

MEBIBYTE = 1024 * 1024
MakeStorage = Callable[..., Storage]
FORMS = ("folder", "moto", "rclone")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class Opened:
    """A bucket for the whole module, and every storage that was opened in it: boto3 takes long to make a client."""

    bucket: Bucket
    storages: dict[tuple[object, ...], Storage] = field(default_factory=dict)

    def storage(self, prefix: str = "", **s3: object) -> Storage:
        wanted = (prefix, *sorted(s3.items()))
        if wanted not in self.storages:
            fields = {**self.bucket.s3, "multipart_threshold": 5 * MEBIBYTE, **s3}
            settings = Settings.model_validate({"storage": f"{self.bucket.storage}/{prefix}", "s3": fields})
            self.storages[wanted] = make_storage(settings)
        return self.storages[wanted]

    def empty(self) -> None:
        everything = self.storage()
        everything.delete_all([found.key for found in everything.list("")])


@pytest.fixture(scope="module")
def opened_moto(moto_server: Server) -> Opened:
    return Opened(servers.fresh_bucket(moto_server))


@pytest.fixture(scope="module")
def opened_rclone(rclone_server: Server) -> Opened:
    return Opened(servers.fresh_bucket(rclone_server))


@pytest.fixture
def make(form: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStorage]:
    """Makes the form's storage as a user would, by settings; the bucket or folder is empty and this test's own."""
    if form == "folder":
        yield lambda prefix="", **_: make_storage(Settings(storage=str(tmp_path / "media" / prefix)))
    else:
        opened: Opened = request.getfixturevalue(f"opened_{form}")
        yield opened.storage
        opened.empty()


@pytest.fixture
def storage(make: MakeStorage) -> Storage:
    return make("a prefix/of ours")


def write(path: Path, data: bytes) -> tuple[Path, str]:
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def put(storage: Storage, key: str, path: Path, data: bytes) -> str:
    _, digest = write(path, data)
    storage.put_file(key, path, sha256=digest, content_type="video/mp4")
    return digest


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        return bytes(response.read())


def test_what_is_put_is_there(storage: Storage, tmp_path: Path) -> None:
    before = time.time()
    path, digest = write(tmp_path / "clip", b"frames")

    stored = storage.put_file("media/j1/clip.mp4", path, sha256=digest, content_type="video/mp4")

    assert (stored.key, stored.size, stored.sha256) == ("media/j1/clip.mp4", 6, digest)
    found = storage.stat("media/j1/clip.mp4")
    assert found is not None
    assert (found.key, found.size) == ("media/j1/clip.mp4", 6)
    assert found.sha256 in (digest, None)
    assert abs(found.modified_at - before) < 60
    assert storage.read_bytes("media/j1/clip.mp4") == b"frames"
    storage.download("media/j1/clip.mp4", tmp_path / "new folder" / "copy.mp4")
    assert (tmp_path / "new folder" / "copy.mp4").read_bytes() == b"frames"


def test_bytes_can_be_put_and_replaced(storage: Storage) -> None:
    assert storage.put_bytes("note.json", b"{}", content_type="application/json").size == 2
    storage.put_bytes("note.json", b"[1]", content_type="application/json")
    assert storage.read_bytes("note.json") == b"[1]"
    assert storage.put_bytes("empty", b"", content_type="text/plain").size == 0
    assert storage.read_bytes("empty") == b""


def test_a_stretch_of_an_object_comes_in_pieces(storage: Storage) -> None:
    data = os.urandom(2 * MEBIBYTE + 7)
    storage.put_bytes("media/a.mp4", data, content_type="video/mp4")

    assert b"".join(storage.chunks("media/a.mp4")) == data
    assert b"".join(storage.chunks("media/a.mp4", start=5, stop=MEBIBYTE + 9)) == data[5 : MEBIBYTE + 9]
    assert b"".join(storage.chunks("media/a.mp4", start=len(data) - 1)) == data[-1:]
    assert max(map(len, storage.chunks("media/a.mp4"))) <= MEBIBYTE
    with pytest.raises(NotFoundError):
        next(iter(storage.chunks("media/none.mp4")))


def test_nothing_is_there_before_a_put(storage: Storage, tmp_path: Path) -> None:
    assert storage.stat("media/none.mp4") is None
    with pytest.raises(NotFoundError, match=r"media/none\.mp4"):
        storage.read_bytes("media/none.mp4")
    with pytest.raises(NotFoundError):
        storage.download("media/none.mp4", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert list(storage.list("")) == []
    storage.delete("media/none.mp4")


def test_the_same_object_put_again_is_fresh(storage: Storage, tmp_path: Path) -> None:
    put(storage, "media/a.mp4", tmp_path / "a", b"same")
    first = storage.stat("media/a.mp4")
    time.sleep(1.1)  # S3's clock shows whole seconds

    put(storage, "media/a.mp4", tmp_path / "a", b"same")

    second = storage.stat("media/a.mp4")
    assert first is not None
    assert second is not None
    assert second.modified_at > first.modified_at
    assert storage.read_bytes("media/a.mp4") == b"same"


def test_another_object_under_the_same_key_replaces_it(storage: Storage, tmp_path: Path) -> None:
    put(storage, "media/a.mp4", tmp_path / "a", b"one")
    put(storage, "media/a.mp4", tmp_path / "a", b"two")
    assert storage.read_bytes("media/a.mp4") == b"two"


def test_a_file_that_is_not_what_was_said_is_not_stored(storage: Storage, tmp_path: Path) -> None:
    path, _ = write(tmp_path / "clip", b"damaged")
    with pytest.raises(RetryableError, match="sha256") as error:
        storage.put_file("a.mp4", path, sha256="0" * 64, content_type="video/mp4")
    assert error.value.code == "storage_corrupt"
    assert storage.stat("a.mp4") is None
    with pytest.raises(RetryableError) as gone:
        storage.put_file("a.mp4", tmp_path / "gone", sha256="0" * 64, content_type="video/mp4")
    assert gone.value.code == "source_unreadable"


def test_large_files_arrive_whole(storage: Storage, tmp_path: Path) -> None:
    data = os.urandom(6 * MEBIBYTE + 1)
    digest = put(storage, "big.mp4", tmp_path / "big", data)
    found = storage.stat("big.mp4")
    assert found is not None
    assert found.size == len(data)
    storage.download("big.mp4", tmp_path / "copy")
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest() == digest
    put(storage, "big.mp4", tmp_path / "big", data)  # again: it is replaced by itself


@pytest.mark.parametrize("checksum", ["SHA256", "CRC32"])
def test_checksums_can_be_sent(make: MakeStorage, tmp_path: Path, checksum: str) -> None:
    storage = make(checksum=checksum)
    put(storage, "small.mp4", tmp_path / "small", b"small")
    put(storage, "big.mp4", tmp_path / "big", b"0" * (6 * MEBIBYTE))
    assert storage.read_bytes("small.mp4") == b"small"
    assert len(storage.read_bytes("big.mp4")) == 6 * MEBIBYTE


@pytest.mark.parametrize("key", ["ünï/日本 語.mp4", "emoji 🎬 & space+plus%25.mp4", "q?a=b#c.mp4", "a'b\"c(d).mp4"])
def test_keys_may_have_any_printable_character(storage: Storage, key: str) -> None:
    storage.put_bytes(key, b"x", content_type="video/mp4")
    assert storage.read_bytes(key) == b"x"
    assert [found.key for found in storage.list("")] == [key]
    assert fetch(storage.url(key, expires_s=60)) == b"x"
    storage.delete(key)
    assert storage.stat(key) is None


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "a/../b", "..", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb", "x" * 201]
)
def test_unsafe_keys_are_refused(storage: Storage, key: str) -> None:
    for use in (storage.read_bytes, storage.stat, storage.delete):
        with pytest.raises(RefusedError, match="storage key") as error:
            use(key)
        assert error.value.code == "storage_key"
    with pytest.raises(RefusedError):
        storage.put_bytes(key, b"x", content_type="text/plain")
    with pytest.raises(RefusedError):
        storage.url(key, expires_s=60)


def test_lists_have_what_begins_with_the_prefix_in_order(storage: Storage, make: MakeStorage) -> None:
    for key in ("media/j1/b", "media/j1/a", "media/j10/a", "media/j1-x", "inputs/a", "media.txt"):
        storage.put_bytes(key, key.encode(), content_type="text/plain")
    make("another prefix").put_bytes("media/theirs", b"", content_type="text/plain")

    assert [found.key for found in storage.list("media/j1/")] == ["media/j1/a", "media/j1/b"]
    assert [found.key for found in storage.list("media/j1")] == [
        "media/j1-x",
        "media/j1/a",
        "media/j1/b",
        "media/j10/a",
    ]
    assert [(found.key, found.size) for found in storage.list("inp")] == [("inputs/a", 8)]
    assert len(list(storage.list(""))) == 6
    assert list(storage.list("none/")) == []


def test_deleting_leaves_the_neighbours(storage: Storage) -> None:
    for key in ("media/j1/a", "media/j1/b"):
        storage.put_bytes(key, b"", content_type="text/plain")
    storage.delete("media/j1/a")
    storage.delete("media/j1/a")
    assert [found.key for found in storage.list("")] == ["media/j1/b"]


def test_urls_are_fetched_by_a_plain_get(storage: Storage, tmp_path: Path) -> None:
    put(storage, "media/j1/clip.mp4", tmp_path / "clip", b"frames")
    assert fetch(storage.url("media/j1/clip.mp4", expires_s=3600)) == b"frames"


def test_check_passes_and_leaves_nothing(storage: Storage) -> None:
    storage.check()
    assert list(storage.list("")) == []


def test_many_are_listed_and_deleted_in_pages_and_their_neighbours_stay(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.s3.PAGE", 10)
    keys = [f"media/j1/{number:04d}" for number in range(25)]
    for key in (*keys, "media/j2/a"):
        storage.put_bytes(key, b"x", content_type="text/plain")
    assert [found.key for found in storage.list("media/")] == [*keys, "media/j2/a"]

    storage.delete_all([*keys, "media/j1/never-there"])
    storage.delete_all([])

    assert [found.key for found in storage.list("")] == ["media/j2/a"]
    with pytest.raises(RefusedError):
        storage.delete_all(["../a"])


def test_puts_that_never_ended_are_dropped(
    form: str, storage: Storage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    storage.put_bytes("media/j1/a", b"x", content_type="text/plain")
    if form == "folder":
        draft = tmp_path / "media" / "a prefix" / "of ours" / "media" / "j2" / ".vgen-part-1-abcd"
        draft.parent.mkdir()
        draft.write_bytes(b"half")
    elif form == "moto":
        _begin_upload(request.getfixturevalue("opened_moto").bucket, "a prefix/of ours/media/j2/b.mp4")
    else:
        assert storage.drop_unfinished(older_than_s=0) == []  # rclone keeps its uploads to itself
        return

    if form == "folder":  # moto says that every upload began in 2010
        assert storage.drop_unfinished(older_than_s=3600) == []
    named = storage.drop_unfinished(older_than_s=0, dry_run=True)
    assert len(named) == 1
    assert storage.drop_unfinished(older_than_s=0) == named
    assert storage.drop_unfinished(older_than_s=0) == []
    assert [found.key for found in storage.list("")] == ["media/j1/a"]


def _begin_upload(bucket: Bucket, key: str) -> None:
    """What a worker leaves behind that is killed between two parts."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=bucket.s3["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=bucket.s3["access_key_id"],
        aws_secret_access_key=bucket.s3["secret_access_key"],
    )
    client.create_multipart_upload(Bucket=bucket.storage.removeprefix("s3://"), Key=key)
