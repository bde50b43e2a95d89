"""Which storage the settings choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.settings import Settings
from pipeline.storage import FolderStorage
from pipeline.storage.s3 import S3Storage
from pipeline.wiring import make_storage


@pytest.mark.parametrize(
    ("value", "folder"),
    [("media", "media"), ("a b/ü", "a b/ü"), ("file://{cwd}/a%20b", "a b"), ("file://localhost{cwd}/c", "c")],
)
def test_folders(value: str, folder: str, tmp_path: Path) -> None:
    storage = make_storage(Settings(storage=value.format(cwd=tmp_path)))
    assert isinstance(storage, FolderStorage)
    assert storage.root == tmp_path / folder


def test_nothing_set_means_the_home(tmp_path: Path) -> None:
    storage = make_storage(Settings(home=tmp_path / "home"))
    assert isinstance(storage, FolderStorage)
    assert storage.root == tmp_path / "home" / "storage"


@pytest.mark.parametrize(("value", "prefix"), [("s3://clips", ""), ("s3://clips/", ""), ("s3://clips/a/b/", "a/b/")])
def test_buckets(value: str, prefix: str) -> None:
    storage = make_storage(Settings(storage=value))
    assert isinstance(storage, S3Storage)
    assert (storage.bucket, storage.prefix) == ("clips", prefix)


@pytest.mark.parametrize(
    "value",
    ["gs://clips", "http://host/clips", "file://host/a", "file://", "s3://", "s3:///a", "s3://Up", "s3://clips/../a"],
)
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="VGEN_STORAGE"):
        make_storage(Settings(storage=value))
