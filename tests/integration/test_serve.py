"""`vgen serve` in solo mode, as a process: what is posted is made and fetched."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.media.opening import open_media
from tests.cli_process import started, until, vgen
from tests.serving import Served, serving

ENCODINGS: dict[str, dict[str, Any]] = {
    "json": {"json": {"prompt": "a red fox", "seconds": "0.625", "size": "64x64", "seed": 7}},
    "parts": {"files": {"prompt": (None, "a red fox"), "seconds": (None, "0.625"), "size": (None, "64x64")}},
    "urlencoded": {"data": {"prompt": "a red fox", "seconds": "0.625", "size": "64x64"}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as served:
        yield served


def test_what_is_posted_in_any_encoding_is_made_and_downloaded(served: Served) -> None:
    for name, body in ENCODINGS.items():
        # Given a video that was just accepted
        answer = served.client.post("/v1/videos", **body)
        assert answer.status_code == 200, (name, answer.text)
        video = answer.json()
        assert video["object"] == "video"
        assert video["status"] in ("queued", "in_progress")

        # When it is finished
        video = served.finished(video["id"])

        # Then its bytes are a clip of the size and length that were asked for
        assert (video["status"], video["progress"], video["error"]) == ("completed", 100, None)
        assert (video["seconds"], video["size"]) == ("0.625", "64x64")
        content = served.client.get(f"/v1/videos/{video['id']}/content")
        assert content.headers["content-type"] == "video/mp4"
        with open_media(io.BytesIO(content.content)) as clip:
            assert (clip.streams.video[0].width, clip.streams.video[0].frames) == (64, 5)
    assert {item["id"] for item in served.client.get("/v1/videos").json()["data"]} >= {video["id"]}


def test_a_stop_ends_it_in_order_and_a_new_one_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path) as first:
        video = first.client.post("/v1/videos", json={"prompt": "a fox at night", "num_frames": 5}).json()
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(60) == 0
    with serving(tmp_path) as second:
        assert second.finished(video["id"])["status"] == "completed"


def test_a_run_beside_it_hands_its_file_over(served: Served, home: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a boat\n", "utf-8")

    done = vgen("--home", home, "run", prompts, "--num-frames", 5)

    assert done.returncode == 0, done.stderr
    assert "another vgen works in" in done.stderr


def test_it_serves_beside_a_run_and_works_on_after_it(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a boat\na bird\n", "utf-8")
    with started("--home", tmp_path, "run", prompts, "--num-frames", 81) as run:
        until((tmp_path / "vgen.lock").exists)
        with serving(tmp_path) as served:
            video = served.client.post("/v1/videos", json={"prompt": "a fox by day", "num_frames": 5}).json()
            run.send_signal(signal.SIGINT)
            assert served.finished(video["id"])["status"] == "completed"


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code", "param"),
    [
        ("GET", "/v1/nonesuch", {}, 404, "unknown_url", None),
        ("PUT", "/v1/videos", {}, 405, "method_not_allowed", None),
        ("GET", "/v1/videos/video_none", {}, 404, "video_not_found", "video_id"),
        ("GET", "/v1/videos?limit=0", {}, 400, "invalid_value", "limit"),
        ("POST", "/v1/videos", {"content": b"{"}, 400, "invalid_json", None),
        ("POST", "/v1/videos", {"content": b"[1]"}, 400, "invalid_json", None),
        ("POST", "/v1/videos", {"json": {"seconds": "4"}}, 400, "invalid_value", "prompt"),
        ("POST", "/v1/videos", {"json": {"prompt": "a fox", "model": "tiny-wam"}}, 400, "invalid_value", "model"),
        (
            "POST",
            "/v1/videos",
            {"json": {"prompt": "x", "input_reference": "/etc/passwd"}},
            400,
            "invalid_value",
            "input_reference",
        ),
    ],
)
def test_a_refusal_has_the_form_of_openais(
    served: Served, method: str, path: str, options: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = served.client.request(method, path, **options)

    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_port_that_is_taken_is_said(served: Served) -> None:
    done = vgen("serve", "--port", served.client.base_url.port)

    assert done.returncode == 2
    assert done.stderr.count(str(served.client.base_url.port)) == 1
    assert done.stderr.endswith("cannot be listened on: Address already in use\n")
