"""The requests that other programs send, in their order and form, without those programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli_process import until, vgen
from tests.serving import Served, serving

KEY = {"authorization": "Bearer fake-api-key"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dialects")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGEN_IDLE_STEP_S", "0.1")
        with serving(home) as served:
            served.client.headers.update(KEY)
            yield served


def polled(served: Served, video_id: str) -> dict[str, Any]:
    """A video once it is completed; a client that throws on ``error`` and stops at nothing else finds its way."""
    video: dict[str, Any] = {}

    def done() -> bool:
        video.update(served.client.get(f"/v1/videos/{video_id}").json())
        assert not video["error"]
        return video["status"] == "completed"

    until(done)
    return video


def test_n8n_posts_a_form_and_polls_until_completed(served: Served) -> None:
    parts = {"model": "idle", "prompt": "a fox", "seconds": "1", "size": "32x32"}
    video = served.client.post("/v1/videos", files={name: (None, value) for name, value in parts.items()}).json()
    assert {"id", "status", "progress", "seconds", "size", "model"} <= video.keys()
    polled(served, video["id"])
    content = served.client.get(f"/v1/videos/{video['id']}/content")
    assert content.headers["content-type"] == "video/mp4"


def test_n8n_sees_why_a_video_failed(served: Served, home: Path) -> None:
    video = served.client.post("/v1/videos", json={"model": "idle", "prompt": "x", "num_inference_steps": 900}).json()
    vgen("--home", home, "cancel", video["vgen_job"])
    until(lambda: served.client.get(f"/v1/videos/{video['id']}").json()["status"] == "failed")
    error = served.client.get(f"/v1/videos/{video['id']}").json()["error"]
    assert error["code"] == "cancelled"
    assert error["message"]


def test_litellm_wraps_ids_and_reads_seconds(served: Served) -> None:
    # openai/: JSON where there is no file
    body = {"model": "idle", "prompt": "a fox", "seconds": "1", "size": "32x32", "user": "ada"}
    video = served.client.post("/v1/videos", json=body).json()
    assert float(video["seconds"]) == 1.0
    wrapped = base64.urlsafe_b64encode(f"litellm:custom_llm_provider:openai;video_id:{video['id']}".encode())
    unwrapped = base64.urlsafe_b64decode(wrapped).decode().rpartition("video_id:")[2]
    assert polled(served, unwrapped)["id"] == video["id"]
    assert served.client.get(f"/v1/videos/{unwrapped}/content", headers={"accept": "*/*"}).content[4:8] == b"ftyp"
    remix = served.client.post(f"/v1/videos/{unwrapped}/remix", json={"prompt": "a wolf"})
    assert remix.json()["object"] == "video"
    assert served.client.get("/v1/videos", params={"limit": 10}).json()["object"] == "list"
    assert served.client.delete(f"/v1/videos/{unwrapped}").json()["deleted"] is True


def test_litellm_hosted_vllm_sends_mappings_as_json_text(served: Served) -> None:
    parts = {
        "prompt": "a fox",
        "model": "idle",
        "size": "32x32",
        "num_frames": "5",
        "num_inference_steps": "2",
        "seed": "42",
        "extra_params": json.dumps({"fps": 8}),
        "metadata": json.dumps({"a": "b"}),
    }
    answer = served.client.post("/v1/videos", files={name: (None, value) for name, value in parts.items()})
    assert answer.status_code == 200, answer.text
    assert answer.json()["seed"] == 42


def test_the_playground_of_fastvideo_lists_posts_polls_and_plays(served: Served) -> None:
    listed = served.client.get("/v1/videos?limit=8&order=desc").json()
    assert isinstance(listed["data"], list)
    video = served.client.post("/v1/videos", json={"model": "idle", "prompt": "a fox", "seed": 1}).json()
    polled(served, video["id"])
    # <video src>: a browser asks for all of it as a range, then for its end
    url = f"/v1/videos/{video['id']}/content"
    first = served.client.get(url, headers={"range": "bytes=0-"})
    assert first.status_code == 206
    size = int(first.headers["content-range"].rpartition("/")[2])
    last = served.client.get(url, headers={"range": f"bytes={size - 100}-"})
    assert (last.status_code, len(last.content)) == (206, 100)
    wrong = served.client.post("/v1/videos", json={"model": "other", "prompt": "a fox"})
    assert wrong.json()["error"]["message"]


def test_scripts_of_the_engines_ask_for_the_bytes_at_once(served: Served) -> None:
    form = {"prompt": "a fox", "model": "idle", "width": "32", "height": "32", "num_frames": "5", "fps": "8"}
    form |= {"num_inference_steps": "1", "guidance_scale": "1.0", "seed": "42", "negative_prompt": "rain"}
    answer = served.client.post("/v1/videos/sync", data=form)
    assert answer.content[4:8] == b"ftyp"
    names = ("x-request-id", "x-model", "x-inference-time-s", "x-stage-durations")
    assert all(answer.headers[name] for name in names)


@pytest.mark.parametrize("count", [1, 2])
def test_openais_flattened_lists_are_put_together_again(served: Served, count: int) -> None:
    parts = [("prompt", (None, "x")), ("model", (None, "idle"))]
    for number in range(count):
        parts += [("loras[][path]", (None, f"/lora/{number}")), ("loras[][scale]", (None, "0.5"))]
    answer = served.client.post("/v1/videos", files=parts)  # type: ignore[arg-type]
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "loras")
    assert "/lora/0" in error["message"], "the first of the list is read, and refused as a path"
