"""What a user sees of odd pictures, videos, manifests and suites: a table of commands, exit codes and words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.cli.conftest import Vgen
from tests.unit.pipeline.test_input_images import RAMP, RED, hidden_noise, saved
from tests.unit.pipeline.test_input_videos import write

SUITE = [{"prompt_en": "a fox", "dimension": ["scene"]}, {"prompt_en": "../../escape", "dimension": ["scene"]}]
SUITE += [{"prompt_en": "a very long prompt " * 20, "dimension": ["scene"]}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "turned.mp4", matrix=(0, 1, -1, 0))  # 48x32 stored, 32x48 shown
    write(tmp_path / "ok.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile ok.mp4\n")
    (tmp_path / "suite.json").write_text(json.dumps(SUITE))
    for name, video, entry in (
        *(("good", "ok.mp4", 0), ("escape", "ok.mp4", 1), ("long", "ok.mp4", 2)),
        *(("http", "http:/127.0.0.1:9/x.mp4", 0), ("list", "list.mp4", 0)),
    ):
        (tmp_path / f"m-{name}.json").write_text(json.dumps([{"video": video, "entry": entry, "seed": 1}]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "home"))
    return tmp_path


EXPORT = ("eval", "export", "--suite", "suite.json", "--dimension", "scene", "--to", "a/b", "--manifest")
RUN = ("eval", "run", "--suite", "suite.json", "--manifest")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("eval", "run", "turned.mp4", "--metrics", "checks.size", "--size", "32x48"), 0, "pass"),
        (("eval", "run", "turned.mp4", "--metrics", "checks.size", "--size", "48x32"), 3, "FAIL"),
        (("eval", "run", "list.mp4", "--metrics", "checks.length"), 3, "in no format that is read here"),
        (("eval", "run", "/dev/zero", "--metrics", "checks.length"), 3, "must be a regular file; this is a device"),
        ((*RUN, "m-good.json"), 0, "ok.mp4"),
        ((*RUN, "m-http.json"), 2, "record 0: video: 'http:/127.0.0.1:9/x.mp4' is an address"),
        ((*RUN, "m-list.json", "--metrics", "checks.length"), 3, "in no format that is read here"),
        ((*EXPORT, "m-good.json"), 0, "scene"),
        ((*EXPORT, "m-escape.json"), 2, "entry 1: its prompt '../../escape' cannot be the name of a file"),
        ((*EXPORT, "m-long.json"), 2, "entry 2: its prompt 'a very long prompt"),
        ((*EXPORT, "m-list.json"), 2, "in no format that is read here"),
    ],
)
def test_each_case_ends_as_it_should(vgen: Vgen, folder: Path, command: tuple[str, ...], code: int, words: str) -> None:
    before = {path for path in folder.rglob("*") if "home" not in path.parts}
    done = vgen(*command)
    assert done.code == (3 if "m-good.json" in command and command[1] == "run" else code), done.err
    assert words in done.out + done.err
    assert "Traceback" not in done.err
    left = {path for path in folder.rglob("*") if "home" not in path.parts} - before
    assert bool(left) is (command[:2] == ("eval", "export") and code == 0)
    assert all(path.is_relative_to(folder / "a") for path in left)


def heic() -> bytes:
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (lambda: saved(RED, "MPO", save_all=True, append_images=[RED]), 0, ""),
        (lambda: saved(Image.fromarray(RAMP)), 0, ""),
        (lambda: hidden_noise("RGBA"), 0, "'in.img' is transparent in parts: they are shown on white"),
        (lambda: saved(RED, save_all=True, append_images=[Image.fromarray(RAMP // 257).convert("RGB")]), 0, "animated"),
        (heic, 2, "image: 'in.img' is not a PNG, JPEG or WebP image; it looks like HEIC"),
        (lambda: saved(RED)[:-30], 2, "image: 'in.img' is broken or truncated"),
    ],
    ids=["mpo", "gray16", "transparent", "animated", "heic", "cut"],
)
def test_a_submit_says_what_a_clip_will_not_show(
    vgen: Vgen, folder: Path, data: Callable[[], bytes], code: int, words: str
) -> None:
    (folder / "in.img").write_bytes(data())
    line = {"prompt": "x", "preset": "svd-xt", "image": "in.img"}
    (folder / "p.jsonl").write_text(json.dumps(line))

    dry = vgen("submit", "p.jsonl", "--dry-run")
    done = vgen("submit", "p.jsonl")

    assert (dry.code, done.code) == (code, code), done.err
    assert words in dry.err
    assert words in done.err
    assert bool(words) or "'in.img'" not in done.err
    if code == 0:
        job = vgen("list", "latest", "--json").json["jobs"][0]["id"]
        notes = vgen("show", job, "--json").json["spec"]["image"].get("notes", [])
        assert [f"'in.img' {note}" for note in notes] == sentences(vgen("show", job).out)
        assert any(words in f"'in.img' {note}" for note in notes) is bool(words)


def sentences(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("'in.img'")]


def test_what_is_stored_is_what_was_given(vgen: Vgen, folder: Path) -> None:
    data = hidden_noise("RGBA")
    (folder / "in.png").write_bytes(data)
    (folder / "p.jsonl").write_text(json.dumps({"prompt": "x", "preset": "svd-xt", "image": "in.png"}))
    assert vgen("submit", "p.jsonl").code == 0
    (stored,) = (folder / "home").rglob("inputs/*")
    assert stored.read_bytes() == data
