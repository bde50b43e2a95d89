"""Where weights are found, how they are compared, and how they are fetched, from a server of this machine."""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import NotFoundError, RefusedError, ServiceUnavailableError
from pipeline.scoring import Weights, weight_files
from pipeline.scoring.weight_files import DINO, RAFT, WEIGHT_FILES
from pipeline.scoring.weights import WeightStatus


def put(path: Path, data: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_places_are_tried_in_order(tmp_path: Path) -> None:
    weights = Weights(tmp_path)
    assert weights.find(DINO.name) is None
    for place in (
        tmp_path / "facebook--dino-vitb16/model.safetensors",
        tmp_path / "facebook/dino-vitb16/pytorch_model.bin",
        tmp_path / DINO.cached_as,
        tmp_path / DINO.name,
    ):
        put(place)
        found = weights.find(DINO.name)
        assert found is not None
        assert found.path == place
        assert found.hub is ("dino-vitb16" in str(place.parent))


def test_the_hub_cache_is_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = put(tmp_path / "hub/model.safetensors")
    monkeypatch.setattr(
        "pipeline.scoring.weights.try_to_load_from_cache",
        lambda repo, name: str(cached) if (repo, name) == (DINO.hub, "model.safetensors") else None,
    )
    found = Weights().find(DINO.name)
    assert found is not None
    assert (found.path, found.hub) == (cached, True)


def test_a_missing_file_is_said_with_its_places(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        Weights(tmp_path).require(RAFT.name)
    assert caught.value.code == "eval_weights_missing"
    assert str(caught.value) == (
        f"raft-things.pth is not on this machine: looked in {tmp_path}/raft-things.pth; "
        "`vgen eval weights pull raft-things.pth`"
    )
    assert "no weights directory is set" in Weights().where(RAFT.name)


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = put(tmp_path / RAFT.name)
    memory = tmp_path / "cache/digests.json"
    weights = Weights(tmp_path, memory)
    assert weights.digest(weights.require(RAFT.name)) == hashlib.sha256(b"weights").hexdigest()
    wrong = memory.read_text().replace(hashlib.sha256(b"weights").hexdigest(), "remembered")
    memory.write_text(wrong)
    again = Weights(tmp_path, memory)
    assert again.digest(again.require(RAFT.name)) == "remembered"
    put(path, b"others")
    assert again.digest(again.require(RAFT.name)) == hashlib.sha256(b"others").hexdigest()


def test_check_compares_with_the_official_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / RAFT.name)
    weights = Weights(tmp_path)
    found = weights.check(RAFT.name)
    assert found.status is WeightStatus.OTHER
    assert "7 bytes" in (found.problem or "")
    assert weights.check(DINO.name).status is WeightStatus.MISSING
    official = replace(RAFT, sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(WEIGHT_FILES, RAFT.name, official)
    assert weights.check(RAFT.name).status is WeightStatus.OFFICIAL


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serves a folder on 127.0.0.1."""
    root = tmp_path / "served"
    root.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", root
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_pull_fetches_verifies_and_keeps(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = server
    digest = hashlib.sha256(b"the weights").hexdigest()
    put(root / "plain", b"the weights")
    with zipfile.ZipFile(root / "models.zip", "w") as archive:
        archive.writestr("models/raft-things.pth", b"the weights")
    plain = replace(DINO, url=f"{url}/plain", sha256=digest)
    zipped = replace(RAFT, url=f"{url}/models.zip", sha256=digest)
    monkeypatch.setitem(WEIGHT_FILES, DINO.name, plain)
    monkeypatch.setitem(WEIGHT_FILES, RAFT.name, zipped)
    folder = tmp_path / "weights"
    for name in (DINO.name, RAFT.name):
        assert Weights(folder).pull(name).read_bytes() == b"the weights"
    assert sorted(path.name for path in folder.iterdir()) == [DINO.name, RAFT.name]

    # A good file is not fetched again, and what is wrong leaves nothing behind
    monkeypatch.setitem(WEIGHT_FILES, DINO.name, replace(plain, url=f"{url}/gone"))
    assert Weights(folder).pull(DINO.name) == folder / DINO.name
    (folder / DINO.name).unlink()
    with pytest.raises(NotFoundError, match="404"):
        Weights(folder).pull(DINO.name)
    monkeypatch.setitem(WEIGHT_FILES, DINO.name, replace(DINO, url=f"{url}/plain"))
    with pytest.raises(ServiceUnavailableError, match="gave 11 bytes with sha256"):
        Weights(folder).pull(DINO.name)
    monkeypatch.setitem(WEIGHT_FILES, RAFT.name, replace(zipped, url=f"{url}/plain", sha256="0"))
    with pytest.raises(ServiceUnavailableError, match=r"no archive that holds models/raft-things\.pth"):
        Weights(folder).pull(RAFT.name)
    monkeypatch.setitem(WEIGHT_FILES, DINO.name, replace(DINO, url="http://127.0.0.1:9/x"))
    with pytest.raises(ServiceUnavailableError, match="refused"):
        Weights(folder).pull(DINO.name)
    assert [path.name for path in folder.iterdir()] == [RAFT.name]


def test_a_source_that_gives_more_than_the_file_is_given_up(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = server
    put(root / "plain", bytes(5_000_000))
    with zipfile.ZipFile(root / "models.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("models/raft-things.pth", bytes(50_000_000))
    monkeypatch.setitem(WEIGHT_FILES, DINO.name, replace(DINO, url=f"{url}/plain", size=1_000_000))
    monkeypatch.setitem(WEIGHT_FILES, RAFT.name, replace(RAFT, url=f"{url}/models.zip", size=1_000_000))
    for name in (DINO.name, RAFT.name):
        with pytest.raises(ServiceUnavailableError, match="has more than 1000000 bytes"):
            Weights(tmp_path / "weights").pull(name)
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_source_that_drips_is_given_up(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = server
    put(root / "plain", bytes(5_000_000))
    monkeypatch.setitem(WEIGHT_FILES, DINO.name, replace(DINO, url=f"{url}/plain"))
    monkeypatch.setattr("pipeline.scoring.weights._GRACE_S", -1e9)  # as if so much time had passed
    with pytest.raises(ServiceUnavailableError, match="less than 50000 bytes a second"):
        Weights(tmp_path / "weights").pull(DINO.name)


def test_the_manifest_is_whole() -> None:
    for name, file in weight_files.WEIGHT_FILES.items():
        assert name == file.name
        assert file.cached_as == name or file.cached_as.endswith(f"/{name}")
        if not file.sha256:  # a folder of the hub, or no digest is published
            assert (file.size, file.is_folder or file.member is not None) == (0, True)
            continue
        assert len(file.sha256) == 64
        assert file.url.startswith("https://")
