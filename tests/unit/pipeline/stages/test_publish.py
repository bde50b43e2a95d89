from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import RetryableError, StoppedError
from pipeline.stages import encode, publish
from pipeline.states import Stage
from pipeline.storage.base import StoredObject
from pipeline.storage.folder import FolderStorage
from tests.unit.pipeline.stages.encoded import Bench, make_bench


class KeepingStorage(FolderStorage):
    """A folder that, like an S3 server, keeps the sha256 of what was put and answers with it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.kept: dict[str, str | None] = {}

    def put_file(self, key: str, path: Path, *, sha256: str, content_type: str) -> StoredObject:
        self.kept[key] = sha256
        return super().put_file(key, path, sha256=sha256, content_type=content_type)

    def put_bytes(self, key: str, data: bytes, *, content_type: str) -> StoredObject:
        stored = super().put_bytes(key, data, content_type=content_type)
        self.kept[key] = stored.sha256
        return stored

    def stat(self, key: str) -> StoredObject | None:
        found = super().stat(key)
        return replace(found, sha256=self.kept.get(key)) if found else None

    def download(self, key: str, path: Path) -> None:
        raise AssertionError("what the store's answer says need not be downloaded")


@pytest.fixture(params=[FolderStorage, KeepingStorage])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    bench = make_bench(tmp_path, storage=request.param(tmp_path / "media"))
    bench.outputs = replace(bench.outputs, encode=encode.run(bench.work(), bench.context).output)
    return bench


def test_what_was_encoded_is_handed_over(bench: Bench) -> None:
    result = publish.run(bench.work(Stage.PUBLISH), bench.context)

    encoded = bench.outputs.encoded
    assert [artifact.kind for artifact in result.artifacts] == ["video", "poster", "strip", "sidecar"]
    for artifact in result.artifacts:
        ref = encoded.file(artifact.kind)
        assert (ref.key, ref.sha256, ref.size) == (artifact.key, artifact.sha256, artifact.size)
    assert result.artifacts[0].media_type == "video/mp4"
    assert result.output.video == encoded.file("video").key


@pytest.mark.parametrize("kind", ["video", "poster", "strip", "sidecar"])
def test_an_object_that_is_gone_is_said(kind: str, bench: Bench) -> None:
    bench.context.storage.delete(bench.outputs.encoded.file(kind).key)
    with pytest.raises(RetryableError, match=kind) as caught:
        publish.run(bench.work(Stage.PUBLISH), bench.context)
    assert caught.value.code == "publish_missing"


@pytest.mark.parametrize("change", ["shorter", "other"])
def test_an_object_that_changed_is_not_published(change: str, bench: Bench) -> None:
    key = bench.outputs.encoded.file("video").key
    data = bench.context.storage.read_bytes(key)
    bench.context.storage.put_bytes(
        key, data[:-1] if change == "shorter" else data[:-1] + bytes([data[-1] ^ 1]), content_type="video/mp4"
    )

    with pytest.raises(RetryableError) as caught:
        publish.run(bench.work(Stage.PUBLISH), bench.context)
    assert caught.value.code == "publish_missing"


def test_it_can_be_stopped(tmp_path: Path, bench: Bench) -> None:
    def stop() -> None:
        raise StoppedError("cancelled")

    with pytest.raises(StoppedError):
        publish.run(bench.work(Stage.PUBLISH), replace(bench.context, check=stop))
