"""The task interface against a real server, with Stable Video Diffusion's own classes at tiny size."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.media.opening import open_media
from tests.cli_process import LIMIT_S, until
from tests.conftest import REPOSITORY
from tests.serving import Served, serving
from tests.tiny_pipelines import TINY

PRESET = "tiny-svd"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("svd")
    TINY["svd"].save(home / "model", home / "presets", PRESET)
    return home


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGEN_PRESET", PRESET)
        with serving(home) as served:
            yield served


def picture(kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(data, kind)
    return data.getvalue()


def generate(served: Served, name: str = "file", **fields: str) -> dict[str, Any]:
    answer = served.client.post("/generate", files={name: ("fox.png", picture(), "image/png")}, data=fields)
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()
    return task


def ended(served: Served, task_id: str) -> tuple[dict[str, Any], list[str]]:
    """The task once it has ended, and every status that it had on the way."""
    seen: list[dict[str, Any]] = []

    def is_over() -> bool:
        seen.append(served.client.get(f"/status/{task_id}").json())
        return seen[-1]["status"] not in ("queued", "started")

    until(is_over)
    return seen[-1], [state["status"] for state in seen]


@pytest.mark.parametrize("part", ["file", "image"])
def test_an_image_becomes_a_video(served: Served, part: str) -> None:
    # Given a task
    task = generate(served, part)
    assert task == {"task_id": task["task_id"], "status": "queued"}
    early = served.client.get(f"/results/{task['task_id']}")
    assert (early.status_code, early.json()["error"]["code"]) == (400, "video_not_ready")

    # When it has ended
    state, statuses = ended(served, task["task_id"])

    # Then its video can be fetched where it says
    assert set(statuses) <= {"queued", "started", "finished"}
    assert (state["status"], state["progress"], state["error"]) == ("finished", 100, None)
    video = served.client.get(state["result"])
    assert (video.status_code, video.headers["content-type"]) == (200, "video/mp4")
    with open_media(io.BytesIO(video.content)) as clip:
        assert (clip.streams.video[0].width, clip.streams.video[0].frames) == (64, 3)


def test_a_task_is_a_video_too_and_takes_its_fields(served: Served) -> None:
    task = generate(served, prompt="a fox", seed="7", num_frames="2")

    state, _ = ended(served, task["task_id"])

    video = served.client.get(f"/v1/videos/video_{task['task_id']}").json()
    assert state["status"] == "finished"
    assert (video["status"], video["prompt"], video["seed"], video["model"]) == ("completed", "a fox", 7, PRESET)
    with open_media(io.BytesIO(served.client.get(state["result"]).content)) as clip:
        assert clip.streams.video[0].frames == 2


def test_a_task_that_failed_says_why(served: Served) -> None:
    task = generate(served, model="svd-xt")  # whose weights are not here

    state, _ = ended(served, task["task_id"])

    assert (state["status"], state["result"]) == ("failed", None)
    assert "svd-xt" in state["error"]
    result = served.client.get(f"/results/{task['task_id']}")
    assert (result.status_code, result.json()["error"]["code"]) == (400, "video_generation_failed")


@pytest.mark.parametrize("path", ["/status/none", "/results/none", "/status/video_x"])
def test_an_unknown_task_is_not_found(served: Served, path: str) -> None:
    answer = served.client.get(path)

    assert answer.status_code == 404
    body = answer.json()
    assert (body["status"], body["error"]["code"]) == ("not_found", "task_not_found")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"data": {"prompt": "a fox"}}, "file"),
        ({"json": {"image": "/etc/passwd"}}, "file"),
        ({"json": {"image": {"file_id": ["x"]}}}, "file"),
        ({"content": picture(), "headers": {"content-type": "image/png"}}, None),
        ({"files": {"file": ("fox.png", b"no picture", "image/png")}}, "file"),
        ({"files": {"file": ("fox.png", picture()), "other": ("x.png", picture())}}, "other"),
        ({"files": {"file": ("fox.png", picture())}, "data": {"steps_": "3"}}, "steps_"),
        ({"files": {"file": ("fox.png", picture())}, "data": {"width": "65"}}, "width"),
        ({"files": {"file": ("fox.png", picture())}, "data": {"model": "tiny-wan"}}, "file"),
    ],
)
def test_what_cannot_be_a_task_is_refused(served: Served, request_: dict[str, Any], field: str | None) -> None:
    answer = served.client.post("/generate", **request_)

    assert answer.status_code == (415 if field is None else 400), answer.text
    assert answer.json()["error"]["param"] == field


def demo(folder: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The script, with this code's `vgen` on its path."""
    command = folder / "bin" / "vgen"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m cli.main "$@"\n')
    command.chmod(0o755)
    process = subprocess.Popen(
        [REPOSITORY / "examples" / "demo.sh", *map(str, arguments)],
        env={**os.environ, **env, "PATH": f"{command.parent}:{os.environ['PATH']}"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the server that it started, if the test ended before it
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_the_demo_makes_a_video_of_an_image(home: Path, tmp_path: Path) -> None:
    image = tmp_path / "a fox, by day.jpg"
    image.write_bytes(picture("JPEG"))
    TINY["svd"].save(tmp_path / "model", tmp_path / "home" / "presets", PRESET)

    done = demo(tmp_path, image, VGEN_HOME=str(tmp_path / "home"), VGEN_PRESET=PRESET)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["finished", "output_video.mp4"]
    with open_media(io.BytesIO((tmp_path / "output_video.mp4").read_bytes())) as clip:
        assert clip.streams.video[0].frames == 3


def test_the_demo_uses_a_server_that_runs_and_says_what_is_wrong(served: Served, tmp_path: Path) -> None:
    image, text = tmp_path / "fox.png", tmp_path / "notes.txt"
    image.write_bytes(picture())
    text.write_text("no picture")
    url = str(served.client.base_url).rstrip("/")

    done = demo(tmp_path, image, "fox.mp4", SERVER_URL=url)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fox.mp4").stat().st_size > 0

    for argument, said in ((text, "invalid_value"), (tmp_path / "none.png", "no such file")):
        refused = demo(tmp_path, argument, SERVER_URL=url)
        assert refused.returncode != 0
        assert said in refused.stderr
