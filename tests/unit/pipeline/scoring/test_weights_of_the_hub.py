"""`pull` of weights that are a folder of the hub, from a server of this machine that answers as the hub does."""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.errors import NotFoundError, RetryableError, ServiceUnavailableError
from pipeline.scoring import Weights
from pipeline.scoring.weight_files import DREAMSIM_LORA, WHISPER

COMMIT = "c" * 40
WEIGHTS = bytes(range(256)) * 4096


class Hub(ThreadingHTTPServer):
    """One repository. ``cuts`` are the lengths after which the next answers with weights end, as if cut off."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files = files
        self.cuts: list[int] = []
        self.fetched: list[tuple[str, str | None]] = []


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if "/resolve/" in path:
            self._file(path.partition(f"/resolve/{COMMIT}/")[2], body)
        elif path.startswith("/api/models/openai/whisper-base"):
            names = self.server.files
            info = {"id": "openai/whisper-base", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "a" * 40} for name, data in names.items()]
            self._send(200, json.dumps(tree if "/tree/" in path else info).encode(), {}, body)
        else:
            self._send(404, b"{}", {}, body)

    def _file(self, name: str, body: bool) -> None:
        data, asked = self.server.files[name], self.headers["Range"]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"', "Accept-Ranges": "bytes"}
        if body:
            self.server.fetched.append((name, asked))
        if asked:
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data = data[first:]
        self._send(206 if asked else 200, data, headers, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            cut = self.server.cuts.pop(0) if len(data) > 1000 and self.server.cuts else None
            self.wfile.write(data[:cut])
            self.close_connection = cut is not None

    def log_message(self, *_: object) -> None:
        pass


def at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library ask this address, which it otherwise reads when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    names = ("config.json", "vocab.json", "merges.txt", "model.safetensors", "pytorch_model.bin", "flax_model.msgpack")
    with Hub({name: WEIGHTS if name == "model.safetensors" else name.encode() for name in names}) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield server
        server.shutdown()
        thread.join()


def fetched_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_folder_is_pulled_with_what_is_read_of_it_alone(hub: Hub, tmp_path: Path) -> None:
    sentences: list[str] = []
    weights = Weights(tmp_path)
    assert "`vgen eval weights pull whisper-base`" in weights.where(WHISPER.name)

    folder = weights.pull(WHISPER.name, sentences.append)

    assert folder == tmp_path / "openai/whisper-base"
    wanted = ("config.json", "vocab.json", "merges.txt", "model.safetensors")
    assert fetched_files(folder) == {name: hub.files[name] for name in wanted}
    found = weights.find(WHISPER.name)
    assert (found and found.path, found and found.hub) == (folder / "model.safetensors", True)
    assert sentences[0].startswith("4 files, 0.0 GB to download into ")

    hub.fetched.clear()
    assert weights.pull(WHISPER.name) == folder
    assert hub.fetched == []


def test_a_repository_without_safetensors_gives_its_other_file(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    folder = Weights(tmp_path).pull(WHISPER.name)
    assert sorted(fetched_files(folder)) == ["config.json", "merges.txt", "pytorch_model.bin", "vocab.json"]


def test_a_connection_that_breaks_is_taken_up_where_it_was(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what is written at once
    hub.cuts = [len(WEIGHTS) // 2]
    folder = Weights(tmp_path).pull(WHISPER.name)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [asked for name, asked in hub.fetched if name == "model.safetensors"]
    assert ranges == [None, f"bytes={len(WEIGHTS) // 2}-"]


def test_a_pull_that_failed_fetches_what_it_had_not(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [0] * 20
    with pytest.raises(ServiceUnavailableError, match="the hub, for openai/whisper-base: "):
        Weights(tmp_path).pull(WHISPER.name)
    assert Weights(tmp_path).find(WHISPER.name) is None
    hub.cuts = []
    hub.fetched.clear()

    folder = Weights(tmp_path).pull(WHISPER.name)

    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [name for name, _ in hub.fetched] == ["model.safetensors"]


def test_a_hub_that_may_not_be_asked_is_a_sentence(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ServiceUnavailableError, match="HF_HUB_OFFLINE"):
        Weights(tmp_path).pull(WHISPER.name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ServiceUnavailableError, match="the hub, for openai/whisper-base: "):
        Weights(tmp_path).pull(WHISPER.name)
    assert hub.fetched == []


def test_a_disk_that_takes_no_more_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(WEIGHTS) // 2, before[1]))
    try:
        with pytest.raises(RetryableError) as caught:
            Weights(tmp_path).pull(WHISPER.name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "disk_full"
    assert str(caught.value) == f"{tmp_path / 'openai/whisper-base'}: File too large"


def test_a_file_without_a_known_digest_is_fetched_by_hand(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be verified: no sha256 of it is published: fetch https://"):
        Weights(tmp_path).pull(DREAMSIM_LORA.name)
    assert "unpack it there" in Weights(tmp_path).where(DREAMSIM_LORA.name)
