"""Models on disk, and the hub behind a local HTTP server that knows a repository or is down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import NotFoundError, RefusedError
from pipeline.models import hub
from pipeline.models.folder_revision import folder_revision
from pipeline.models.hub import ModelStatus, check, model_folder, model_status, pins, pull
from pipeline.models.tiny_wan import REVISION, ensure_tiny_wan
from pipeline.presets import get_preset


def test_model_that_was_not_pulled_is_missing(tmp_path: Path) -> None:
    preset = get_preset("mochi-1")
    assert model_status(preset, tmp_path) is ModelStatus.MISSING
    assert check(preset, tmp_path).problems == ("not on this machine: `vgen models pull mochi-1`",)
    with pytest.raises(RefusedError, match="vgen models pull mochi-1"):
        model_folder(preset, tmp_path)


def test_built_in_models_need_no_pull(model_cache: Path) -> None:
    assert pull(get_preset("tiny-wan"), model_cache) == REVISION
    assert model_status(get_preset("idle"), model_cache) is ModelStatus.BUILT_IN
    assert check(get_preset("idle"), model_cache).problems == ()
    assert pins(model_cache) == {}


def test_a_model_that_is_installed_with_vgen_needs_no_pull(
    tmp_path: Path, model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "installed"
    monkeypatch.setattr(hub, "SHIPPED", {"own-wan": folder})
    preset = get_preset("wan2.1-t2v-1.3b").model_copy(update={"repo": "own-wan"})
    assert model_status(preset, tmp_path) is ModelStatus.MISSING
    with pytest.raises(RefusedError, match=f"not on this machine: there is no {folder}/model_index.json"):
        model_folder(preset, tmp_path)
    shutil.copytree(ensure_tiny_wan(model_cache), folder)
    assert model_status(preset, tmp_path) is ModelStatus.BUILT_IN
    assert check(preset, tmp_path).problems == ()
    assert model_folder(preset, tmp_path) == (folder, folder_revision(folder, tmp_path))
    assert pull(preset, tmp_path) == folder_revision(folder, tmp_path)
    assert pins(tmp_path) == {}
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert model_status(preset, tmp_path) is ModelStatus.DAMAGED


def test_model_in_a_folder_is_used_and_checked(tmp_path: Path, model_cache: Path) -> None:
    folder = ensure_tiny_wan(model_cache)
    preset = get_preset("wan2.1-t2v-1.3b").model_copy(update={"repo": str(folder)})
    assert model_status(preset, tmp_path) is ModelStatus.READY
    found, revision = model_folder(preset, tmp_path)
    assert (found, revision) == (folder, folder_revision(folder, tmp_path / "other"))
    assert check(preset, tmp_path).problems == ()
    with pytest.raises(NotFoundError, match=r"is a folder, .*nothing to download"):
        pull(preset, tmp_path)


def test_a_folder_that_is_no_model_is_told(tmp_path: Path) -> None:
    preset = get_preset("wan2.1-t2v-1.3b").model_copy(update={"repo": str(tmp_path / "none")})
    assert check(preset, tmp_path).problems == (f"not on this machine: there is no {tmp_path}/none/model_index.json",)
    (tmp_path / "none").mkdir()
    for text in ("half", "[]"):
        (tmp_path / "none/model_index.json").write_text(text, "utf-8")
        assert "model_index.json cannot be read" in check(preset, tmp_path).problems[0]
        with pytest.raises(RefusedError, match="cannot be read") as caught:
            model_folder(preset, tmp_path)
        assert caught.value.code == "model_missing"


def test_an_argument_that_the_class_does_not_take_is_told(tmp_path: Path, model_cache: Path) -> None:
    update = {"repo": str(ensure_tiny_wan(model_cache)), "arguments": {"shift": 3}}
    preset = get_preset("wan2.1-t2v-1.3b").model_copy(update=update)
    assert check(preset, tmp_path).problems == ("arguments.shift: WanPipeline takes no such argument",)


def test_a_folders_revision_is_its_content(tmp_path: Path, model_cache: Path) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(ensure_tiny_wan(model_cache), folder)
    before = folder_revision(folder, tmp_path)
    assert before == folder_revision(ensure_tiny_wan(model_cache), tmp_path / "another cache")
    (folder / "optimizer.pt").write_bytes(b"not of the pipeline")
    assert folder_revision(folder, tmp_path) == before
    config = folder / "vae/config.json"
    config.write_text(config.read_text("utf-8") + "\n", "utf-8")
    assert folder_revision(folder, tmp_path) != before
    (tmp_path / "models/folder-digests.json").write_text("half", "utf-8")
    assert folder_revision(folder, tmp_path) != before


def test_missing_component_shard_and_class_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    index = {"_class_name": "X", "vae": ["diffusers", "A"], "transformer": ["diffusers", "B"], "extra": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    shards = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "transformer/weights.index.json").write_text(json.dumps(shards), "utf-8")
    save_file({"a": torch.zeros(1)}, folder / "transformer/one.safetensors")
    preset = get_preset("mochi-1").model_copy(update={"repo": str(folder), "pipeline_class": "NoPipeline"})
    problems = "\n".join(check(preset, tmp_path).problems)
    assert "NoPipeline" in problems
    assert "vae: folder" in problems
    assert "two.safetensors is missing" in problems
    assert "one.safetensors" not in problems
    assert "extra" not in problems


COMMIT = "0123456789abcdef0123456789abcdef01234567"
PULL = """
import sys
from pathlib import Path
from pipeline.errors import VgenError
from pipeline.models.hub import model_folder, pins, pull
from pipeline.presets import get_preset
cache, preset = Path(sys.argv[1]), get_preset("mochi-1")
try:
    print(pull(preset, cache))
    print(pins(cache)["genmo/mochi-1-preview@main"])
    print(model_folder(preset, cache)[1])
except VgenError as error:
    print(error.code)
"""
SERVER = """
import http.server, json, sys
COMMIT, MODE = sys.argv[1:]
FILES = {"model_index.json": b"{}", "vae/config.json": b"{}"}
class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.answer(True)
    def do_HEAD(self): self.answer(False)
    def answer(self, body):
        path = self.path.split("?")[0]
        if MODE == "missing":
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        if "/resolve/" in path:
            name = path.split("/resolve/" + COMMIT + "/")[1]
            headers = {"X-Repo-Commit": COMMIT, "ETag": '"' + name.replace("/", "-") + '"'}
            return self.reply(200, FILES[name], headers, body)
        siblings = [{"rfilename": name} for name in FILES]
        tree = [{"type": "file", "path": n, "size": len(b), "oid": "a" * 40} for n, b in FILES.items()]
        info = {"id": "genmo/mochi-1-preview", "sha": COMMIT, "siblings": siblings}
        return self.reply(200, json.dumps(tree if "/tree/" in path else info).encode(), {}, body)
    def reply(self, status, data, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body: self.wfile.write(data)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
print(server.server_port, flush=True)
server.serve_forever()
"""


def run_pull(tmp_path: Path, endpoint: str) -> list[str]:
    """In a process of its own, since the hub's client reads its settings at import."""
    done = subprocess.run(
        [sys.executable, "-c", PULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[4]),
            "PATH": "/usr/bin:/bin",
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(("mode", "expected"), [("there", [COMMIT] * 3), ("missing", ["not_found"])])
def test_pull_resolves_and_pins_the_commit(tmp_path: Path, mode: str, expected: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER, COMMIT, mode], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert run_pull(tmp_path, f"http://127.0.0.1:{port}") == expected
        finally:
            server.kill()


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    assert run_pull(tmp_path, "http://127.0.0.1:9") == ["service_unavailable"]
