"""What is done with a finished video: its bytes, deleting, remixing, extending; and requests that come twice."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.media.opening import open_media
from tests.cli_process import until, vgen
from tests.integration.test_serve_videos import SMALL, create, refused
from tests.serving import Served, serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGEN_IDLE_STEP_S", "0.2")
        with serving(home) as served:
            yield served


@pytest.fixture(scope="module")
def clip(served: Served) -> dict[str, Any]:
    return served.finished(create(served, seed=7, negative_prompt="rain", num_inference_steps=2)["id"])


def test_its_bytes_come_whole_in_part_and_not_again(served: Served, clip: dict[str, Any]) -> None:
    url = f"/v1/videos/{clip['id']}/content"
    whole = served.client.get(url)
    size, etag = len(whole.content), whole.headers["etag"]
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-disposition"] == f'inline; filename="{clip["vgen_job"]}.mp4"'
    assert int(whole.headers["content-length"]) == size
    with open_media(io.BytesIO(whole.content)) as media:
        assert media.streams.video[0].frames == 5

    head = served.client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert head.headers["etag"] == etag

    for header, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=5-{size + 100}", 5, size),
        ("Bytes = 0 - 0", 0, 1),
    ):
        part = served.client.get(url, headers={"range": header})
        assert part.status_code == 206, header
        assert part.content == whole.content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    for header in (f"bytes={size}-", "bytes=-0"):
        none = served.client.get(url, headers={"range": header})
        assert (none.status_code, none.headers["content-range"]) == (416, f"bytes */{size}")
        assert f"'{header}' is not a part of the file, which has {size} bytes" in none.json()["error"]["message"]
        assert served.client.head(url, headers={"range": header}).status_code == 416
    for header in ("bytes=9-2", "bytes=0-1,3-4", "pages=1-2", "bytes=x"):
        assert served.client.get(url, headers={"range": header}).content == whole.content
    other = served.client.get(url, headers={"range": "bytes=0-1", "if-range": '"other"'})
    assert (other.status_code, len(other.content)) == (200, size)

    for tag in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        same = served.client.get(url, headers={"if-none-match": tag})
        assert (same.status_code, same.content) == (304, b"")


def test_it_has_a_poster_and_a_strip(served: Served, clip: dict[str, Any]) -> None:
    for variant in ("thumbnail", "spritesheet"):
        answer = served.client.get(f"/v1/videos/{clip['id']}/content", params={"variant": variant})
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content[:3] == b"\xff\xd8\xff"
    url = f"/v1/videos/{clip['id']}/content"
    refused(served.client.get(url, params={"variant": "sound"}), 400, "invalid_value", "variant")


def test_what_is_not_finished_has_no_bytes_and_nobody_is_told_to_try_again(served: Served) -> None:
    video = create(served, num_inference_steps=30)
    answer = served.client.get(f"/v1/videos/{video['id']}/content")
    refused(answer, 400, "video_not_ready", "video_id")
    assert answer.headers["x-should-retry"] == "false"
    vgen_cancel = served.client.delete(f"/v1/videos/{video['id']}")
    assert vgen_cancel.json() == {"id": video["id"], "object": "video.deleted", "deleted": True}


def test_deleting_stops_the_gpu_and_leaves_nothing_to_see(served: Served, home: Path) -> None:
    video = create(served, num_inference_steps=200)
    until(lambda: served.client.get(f"/v1/videos/{video['id']}").json()["status"] == "in_progress")

    assert served.client.delete(f"/v1/videos/{video['id']}").json()["deleted"] is True

    # Then its step has ended when the answer comes, long before it could have been done
    shown = json.loads(vgen("--home", home, "show", video["vgen_job"], "--json").stdout)
    assert shown["job"]["state"] == "cancelled"
    assert [attempt["outcome"] for attempt in shown["attempts"] if attempt["stage"] == "generate"] == ["cancelled"]

    for path in ("", "/content"):
        refused(served.client.get(f"/v1/videos/{video['id']}{path}"), 404, "video_not_found", "video_id")
    refused(served.client.delete(f"/v1/videos/{video['id']}"), 404, "video_not_found", "video_id")
    assert video["id"] not in [item["id"] for item in served.client.get("/v1/videos?limit=100").json()["data"]]


def test_deleting_a_finished_one_removes_its_files_and_no_retry_brings_it_back(served: Served, home: Path) -> None:
    video = served.finished(create(served, num_inference_steps=1)["id"])
    folder = home / "storage" / "media" / video["vgen_job"]
    assert folder.is_dir()
    assert served.client.delete(f"/v1/videos/{video['id']}").json()["deleted"] is True
    assert not folder.exists()
    shown = vgen("--home", home, "show", video["vgen_job"], "--json")
    assert "job_deleted" in shown.stdout
    vgen("--home", home, "retry", video["vgen_job"])
    assert json.loads(vgen("--home", home, "show", video["vgen_job"], "--json").stdout)["files"] == []


def test_a_clip_whose_file_is_gone_has_expired(served: Served, home: Path) -> None:
    video = served.finished(create(served, num_inference_steps=1)["id"])
    for file in (home / "storage" / "media" / video["vgen_job"]).iterdir():
        file.unlink()
    refused(served.client.get(f"/v1/videos/{video['id']}/content"), 404, "video_expired", "video_id")


def test_a_remix_is_the_same_with_another_prompt(served: Served, clip: dict[str, Any]) -> None:
    answer = served.client.post(f"/v1/videos/{clip['id']}/remix", json={"prompt": "a wolf", "num_frames": 6})
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert (video["remixed_from_video_id"], video["prompt"], video["seed"]) == (clip["id"], "a wolf", 7)
    assert (video["seconds"], video["size"]) == ("0.75", "32x32")
    remix = f"/v1/videos/{clip['id']}/remix"
    refused(served.client.post(remix, json={}), 400, "invalid_value", "prompt")
    refused(served.client.post(remix, json={"prompt": "x", "fsp": 3}), 400, "unknown_parameter", "fsp")
    refused(served.client.post(remix, json={"prompt": "x", "video_url": "http://a"}), 400, "invalid_value", "video_url")
    refused(
        served.client.post("/v1/videos/video_1-000000/remix", json={"prompt": "x"}), 404, "video_not_found", "video_id"
    )


def test_an_extension_begins_with_the_clip_and_goes_on(served: Served, clip: dict[str, Any]) -> None:
    body = {"prompt": "it goes on", "video": {"id": clip["id"]}, "seconds": "1"}
    answer = served.client.post("/v1/videos/extensions", json=body)
    assert answer.status_code == 200, answer.text
    video = served.finished(answer.json()["id"])
    assert (video["status"], video["seconds"]) == ("completed", "1.5")  # 5 frames, and 8 of which 1 is their last
    form = {"prompt": (None, "x"), "video[id]": (None, clip["id"])}
    assert served.client.post("/v1/videos/extensions", files=form).status_code == 200
    url = "/v1/videos/extensions"
    refused(served.client.post(url, json={**body, "size": "64x64"}), 400, "unknown_parameter", "size")
    refused(served.client.post(url, json={**body, "seconds": "x"}), 400, "invalid_value", "seconds")
    refused(served.client.post(url, json={"prompt": "x", "video": "/etc/passwd"}), 400, "invalid_value", "video")
    file = {"video": ("a.mp4", b"x", "video/mp4")}
    refused(served.client.post(url, data={"prompt": "x"}, files=file), 400, "unsupported_video", "video")
    running = create(served, num_inference_steps=30)
    refused(
        served.client.post(url, json={**body, "video": {"id": running["id"]}}), 400, "video_not_extendable", "video"
    )
    served.client.delete(f"/v1/videos/{running['id']}")


def test_an_edit_wants_a_preset_that_takes_a_video(served: Served, clip: dict[str, Any]) -> None:
    url = "/v1/videos/edits"
    message = refused(served.client.post(url, json={"prompt": "x", "video": clip["id"]}), 400, "invalid_value", "model")
    assert "wan2.1-v2v-1.3b" in message
    refused(served.client.post(url, json={"prompt": "x"}), 400, "invalid_value", "video")
    # The clip is found and read: it is too short for that preset, which says so
    body = {"prompt": "x", "video": {"id": clip["id"]}, "model": "wan2.1-v2v-1.3b"}
    assert "has 5 frames, the clip 81" in refused(served.client.post(url, json=body), 400, "invalid_value", "video")


def test_characters_are_not_implemented(served: Served) -> None:
    refused(served.client.post("/v1/videos/characters", data={"name": "fox"}), 501, "unsupported_characters")
    refused(served.client.get("/v1/videos/characters/char_1"), 501, "unsupported_characters")


def test_the_synchronous_call_answers_with_the_clip(served: Served) -> None:
    answer = served.client.post("/v1/videos/sync", json={"prompt": "x", **SMALL, "num_inference_steps": 1})
    assert answer.status_code == 200, answer.text
    assert (answer.headers["content-type"], answer.headers["x-model"]) == ("video/mp4", "idle")
    assert float(answer.headers["x-inference-time-s"]) > 0
    assert "generate" in json.loads(answer.headers["x-stage-durations"])
    assert answer.headers["x-request-id"]
    with open_media(io.BytesIO(answer.content)) as media:
        assert media.streams.video[0].frames == 5
    several = {"prompt": "x", **SMALL, "extra_body": {"n": 2}}
    several_refused = served.client.post("/v1/videos/sync", json=several)
    refused(several_refused, 400, "invalid_value", "n")
    assert several_refused.json()["error"]["message"] == "n: 2 is not possible here: only 1 is"
    refused(served.client.post("/v1/videos/sync", json={"prompt": "x", "size": "1x1"}), 400, "invalid_value", "size")


# Requests that come twice


def ids_of(served: Served, requests: list[dict[str, Any]], url: str = "/v1/videos") -> list[str]:
    answers = [served.client.post(url, **request) for request in requests]
    assert [answer.status_code for answer in answers] == [200] * len(answers), answers[-1].text
    return [answer.json()["id"] for answer in answers]


def form(boundary: str, prompt: str) -> dict[str, Any]:
    """The form that an SDK sends: with a boundary of its own each time."""
    parts = {"prompt": prompt, "model": "idle", "size": "32x32", "num_frames": "5"}
    lines = [f'--{boundary}\r\ncontent-disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in parts.items()]
    content = "".join((*lines, f"--{boundary}--\r\n")).encode()
    return {"content": content, "headers": {"content-type": f"multipart/form-data; boundary={boundary}"}}


def tried(request: dict[str, Any], number: int) -> dict[str, Any]:
    return {**request, "headers": {**request.get("headers", {}), "x-stainless-retry-count": str(number)}}


def test_a_retry_of_the_sdk_is_the_first_request_and_no_other_is(served: Served) -> None:
    first, again, third = ids_of(
        served, [tried(form("a", "twice"), 0), tried(form("b", "twice"), 1), tried(form("c", "twice"), 2)]
    )
    assert first == again == third
    other, anew = ids_of(served, [tried(form("d", "another"), 1), tried(form("e", "twice"), 0)])
    assert len({first, other, anew}) == 3


def test_retries_at_one_instant_are_one_job(served: Served) -> None:
    answers: list[str] = []
    request = {"json": {"prompt": "at once", **SMALL}}

    def send(number: int) -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=60) as client:
            answers.append(client.post("/v1/videos", **tried(request, number)).json()["id"])

    threads = [threading.Thread(target=send, args=(number,)) for number in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1


def test_an_idempotency_key_is_for_one_request(served: Served, clip: dict[str, Any]) -> None:
    keyed = {"json": {"prompt": "keyed", **SMALL}, "headers": {"idempotency-key": "k1"}}
    first, again = ids_of(served, [keyed, keyed])
    assert first == again
    other = {**keyed, "json": {"prompt": "other", **SMALL}}
    refused(served.client.post("/v1/videos", **other), 422, "idempotency_key_reused", "Idempotency-Key")
    url = f"/v1/videos/{clip['id']}/remix"
    refused(served.client.post(url, **keyed), 422, "idempotency_key_reused", "Idempotency-Key")
    long = {**keyed, "headers": {"idempotency-key": "k" * 300}}
    refused(served.client.post("/v1/videos", **long), 400, "invalid_value", "Idempotency-Key")
    extension = {"json": {"prompt": "on", "video": clip["id"]}, "headers": {"idempotency-key": "k2"}}
    assert len(set(ids_of(served, [extension, extension], "/v1/videos/extensions"))) == 1


# Ends


def test_a_killed_server_loses_nothing_that_it_answered_and_a_retry_makes_nothing_twice(tmp_path: Path) -> None:
    with serving(tmp_path) as first:
        video = create(first, prompt="kept")
        request = {"json": {"prompt": "kept, too", **SMALL}}
        kept = first.client.post("/v1/videos", **tried(request, 0)).json()
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(60)
    with serving(tmp_path) as second:
        assert second.client.post("/v1/videos", **tried(request, 1)).json()["id"] == kept["id"]
        assert second.finished(video["id"])["status"] == "completed"
        assert second.finished(kept["id"])["status"] == "completed"
        assert len(second.client.get("/v1/videos").json()["data"]) == 2


def test_a_download_survives_a_stop(served: Served, home: Path, clip: dict[str, Any]) -> None:
    with serving(home) as other, other.client.stream("GET", f"/v1/videos/{clip['id']}/content") as answer:
        other.process.send_signal(signal.SIGTERM)
        assert len(b"".join(answer.iter_bytes())) == int(answer.headers["content-length"])


def test_a_long_poll_ends_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_IDLE_STEP_S", "0.5")
    with serving(tmp_path) as served:
        video = create(served, num_inference_steps=100)
        answers: list[int] = []

        def wait() -> None:
            with httpx.Client(base_url=served.client.base_url, timeout=60) as client:
                answers.append(client.get(f"/v1/videos/{video['id']}?wait=60").status_code)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(1)
        served.process.send_signal(signal.SIGTERM)
        waiting.join(30)
        assert answers == [200]
        assert served.process.wait(60) == 0
