"""The contract of ``/v1/videos`` over plain HTTP, as the clients of OpenAI and of the engines' servers use it."""

from __future__ import annotations

import io
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.cli_process import until
from tests.serving import Served, serving

SMALL = {"model": "idle", "size": "32x32", "num_frames": 5}
SECRET_FOLDER = "the-servers-own-folder"
POST = b"POST /v1/videos HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(SECRET_FOLDER)


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGEN_IDLE_STEP_S", "0.2")
        patch.setenv("VGEN_SERVE_BODY_BYTES", "200000")
        patch.setenv("VGEN_SERVE_UPLOAD_BYTES", "2000000")
        patch.setenv("VGEN_SERVE_RECEIVE_S", "1")
        patch.setenv("VGEN_PRICES", "cpu=3600")
        with serving(home) as served:
            yield served


def create(served: Served, **fields: Any) -> dict[str, Any]:
    answer = served.client.post("/v1/videos", json={"prompt": "a fox", **SMALL, **fields})
    assert answer.status_code == 200, answer.text
    video: dict[str, Any] = answer.json()
    return video


def refused(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of a refusal, which has OpenAI's form and tells nothing of the server's disk."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    assert SECRET_FOLDER not in answer.text
    assert "/" not in answer.headers["x-request-id"]
    message: str = error["message"]
    return message


@pytest.fixture(scope="module")
def finished(served: Served) -> dict[str, Any]:
    video = create(served, prompt="a fox that is done", seed=7)
    return served.finished(video["id"])


# What a video looks like


def test_a_video_has_every_field_that_clients_read(served: Served, finished: dict[str, Any]) -> None:
    assert re.fullmatch(r"video_[0-9a-z]+-[0-9]{6}", finished["id"])
    assert finished["object"] == "video"
    assert (finished["status"], finished["progress"], finished["error"]) == ("completed", 100, None)
    assert (finished["model"], finished["seconds"], finished["size"]) == ("idle", "0.625", "32x32")
    assert isinstance(finished["created_at"], int)
    assert finished["completed_at"] >= finished["created_at"]
    assert (finished["prompt"], finished["seed"]) == ("a fox that is done", 7)
    assert finished["remixed_from_video_id"] is None
    assert finished["vgen_job"] in finished["id"]
    assert finished["stage_durations"]["generate"] == finished["inference_time_s"] >= 0.8
    assert finished["cost"] == pytest.approx(finished["inference_time_s"], rel=0.01)
    assert finished["media_type"] == "video/mp4"


def test_a_running_video_says_when_to_ask_again(served: Served) -> None:
    answer = served.client.post("/v1/videos", json={"prompt": "x", **SMALL, "num_inference_steps": 20})
    assert re.fullmatch(r"[0-9]+", answer.headers["openai-poll-after-ms"])
    video_id = answer.json()["id"]

    seen: list[dict[str, Any]] = []

    def polled() -> bool:
        polled_answer = served.client.get(f"/v1/videos/{video_id}")
        seen.append(polled_answer.json())
        ended = seen[-1]["status"] in ("completed", "failed")
        header = polled_answer.headers.get("openai-poll-after-ms")
        assert (header is None) == ended
        assert ended or 1000 <= int(header or 0) <= 15_000
        return ended

    until(polled)
    assert {video["status"] for video in seen} <= {"queued", "in_progress", "completed"}
    assert [video["progress"] for video in seen] == sorted(video["progress"] for video in seen)
    assert any(video["status"] == "in_progress" and video["eta_seconds"] for video in seen)


def test_a_long_poll_answers_at_the_end(served: Served) -> None:
    video = create(served, num_inference_steps=8)
    ended = served.client.get(f"/v1/videos/{video['id']}", params={"wait": "30"}).json()
    assert ended["status"] == "completed"
    refused(served.client.get(f"/v1/videos/{video['id']}?wait=61"), 400, "invalid_value", "wait")


# Fields

EQUAL: dict[str, dict[str, Any]] = {
    "json": {"json": {"prompt": "p", "model": "idle", "width": 64, "height": 48, "seconds": 1, "fps": 8, "seed": 5}},
    "text": {"json": {"prompt": "p", "model": "idle", "size": " 64 X 48 ", "seconds": "1", "fps": "8", "seed": "5"}},
    "spelled": {
        "json": {"prompt": "p", "model": "idle", "aspect_ratio": "4:3", "short_edge": 48, "duration": 1.0, "seed": 5}
    },
    "extra_body": {
        "json": {"prompt": "p", "model": "idle", "seed": 1, "extra_body": {"seed": 5, "size": "64x48"}}
        | {"num_frames": 8}
    },
    "json text": {
        "files": {
            "prompt": (None, "p"),
            "extra_json": (None, '{"model": "idle", "size": "64x48", "seed": 5}'),
            "video_params": (None, '{"num_frames": 8}'),
        }
    },
    "urlencoded": {"data": {"prompt": "p", "model": "idle", "size": "64x48", "num_frames": "8", "seed": "5"}},
    "brackets": {
        "data": {"prompt": "p", "extra_body[model]": "idle", "extra_body[size]": "64x48", "seed": "5"}
        | {"num_frames": "8", "metadata[a]": "b"}
    },
    "curl": {
        "content": b'{"prompt": "p", "model": "idle", "size": "64x48", "num_frames": 8, "seed": 5}',
        "headers": {"content-type": "application/x-www-form-urlencoded"},
    },
    "off": {
        "json": {"prompt": "p", "model": "idle", "size": "64x48", "num_frames": 8, "seed": 5, "enable_teacache": False}
        | {"generate_sound": "false", "quality": "auto", "task": "t2v", "generator_device": "cuda", "user": "ada"}
    },
    "alias": {
        "url": "/v1/videos/generations",
        "json": {"prompt": "p", "size": "64x48", "num_frames": 8, "seed": 5} | {"preset": "idle"},
    },
}


@pytest.mark.parametrize("name", EQUAL)
def test_every_encoding_and_spelling_asks_for_the_same(served: Served, name: str) -> None:
    request = {"url": "/v1/videos", **EQUAL[name]}
    answer = served.client.post(**request)
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert [video[field] for field in ("model", "prompt", "size", "seconds", "seed")] == ["idle", "p", "64x48", "1", 5]


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "tiny-wam"}, "invalid_value", "model"),
    ({"model": 7}, "invalid_value", "model"),
    ({"negativ_prompt": "x"}, "unknown_parameter", "negativ_prompt"),
    ({"size": "33x32"}, "invalid_value", "size"),
    ({"size": "32x33"}, "invalid_value", "size"),
    ({"size": None, "width": 33, "height": 32}, "invalid_value", "width"),
    ({"enhance": True}, "invalid_value", "enhance"),
    ({"size": "big"}, "invalid_value", "size"),
    ({"size": "32x32", "width": 64}, "invalid_value", "size"),
    ({"size": "32x32", "aspect_ratio": "16:9"}, "invalid_value", "size"),
    ({"seconds": "100", "num_frames": 5}, "invalid_value", "seconds"),
    ({"seconds": "1e400"}, "invalid_value", "seconds"),
    ({"seconds": "NaN"}, "invalid_value", "seconds"),
    ({"num_frames": None, "seconds": "600"}, "invalid_value", "seconds"),
    ({"seed": -1}, "invalid_value", "seed"),
    ({"n": 0}, "invalid_value", "n"),
    ({"n": 11}, "invalid_value", "n"),
    ({"n": 2, "num_outputs_per_prompt": 3}, "invalid_value", "n"),
    ({"flow_shift": 5.0}, "unsupported_parameter", "flow_shift"),
    ({"output_path": "/tmp/x"}, "unsupported_parameter", "output_path"),
    ({"rollout_steps": 3}, "unsupported_parameter", "rollout_steps"),
    ({"video_path": "/etc/passwd"}, "unsupported_parameter", "video_path"),
    ({"enable_teacache": True}, "unsupported_parameter", "enable_teacache"),
    ({"generate_sound": True}, "unsupported_parameter", "generate_sound"),
    ({"input_reference": "/etc/passwd"}, "invalid_value", "input_reference"),
    ({"input_reference": "../../../etc/passwd"}, "invalid_value", "input_reference"),
    ({"input_reference": "file:///etc/passwd"}, "invalid_value", "input_reference"),
    ({"input_reference": {"file_id": "file-1"}}, "invalid_value", "input_reference"),
    ({"input_reference": {"image_url": "http://127.0.0.1:1/x"}}, "invalid_value", "input_reference"),
    ({"image_url": "http://169.254.169.254/latest/meta-data"}, "invalid_value", "image_url"),
    ({"reference_url": "http://2130706433/"}, "invalid_value", "reference_url"),
    ({"reference_url": "http://[::ffff:127.0.0.1]/"}, "invalid_value", "reference_url"),
    ({"reference_url": "http://0x7f.1/"}, "invalid_value", "reference_url"),
    ({"reference_url": "gopher://127.0.0.1/"}, "invalid_value", "reference_url"),
    ({"input_reference": [1]}, "invalid_value", "input_reference"),
    ({"lora": {"path": "/etc/passwd", "scale": 1}}, "invalid_value", "lora"),
    ({"loras": [{"scale": 1}]}, "invalid_value", "loras"),
    ({"quality": "best"}, "invalid_value", "quality"),
    ({"quality": 64}, "invalid_value", "quality"),
    ({"extra_body": "{"}, "invalid_value", "extra_body"),
    ({"extra_body": [1]}, "invalid_value", "extra_body"),
    ({"video_params": {"num_frames": 9}}, "invalid_value", "num_frames"),
    ({"task": "i2v"}, "invalid_value", "task"),
    ({"metadata": "x"}, "invalid_value", "metadata"),
    ({"metadata": {"a": {"b": 1}}}, "invalid_value", "metadata"),
    ({"user": "x" * 5000}, "invalid_value", "user"),
    ({"gate": ["checks"]}, "invalid_value", "gate"),
    ({"score": "nonesuch"}, "invalid_value", "score"),
    ({"model": "svd-xt", "size": None}, "invalid_value", "input_reference"),
    ({"prompt": ""}, "invalid_value", "prompt"),
    ({"prompt": "a\u0000b"}, "invalid_value", "prompt"),
    ({"prompt": ["a"]}, "invalid_value", "prompt"),
]


@pytest.mark.parametrize(("fields", "code", "param"), REFUSALS, ids=lambda value: json.dumps(value)[:60])
def test_what_cannot_be_kept_is_refused_by_name(served: Served, fields: dict[str, Any], code: str, param: str) -> None:
    message = refused(served.client.post("/v1/videos", json={"prompt": "a fox", **SMALL, **fields}), 400, code, param)
    assert message.startswith(f"{param}: "), message


def test_an_unknown_field_names_the_nearest_and_may_be_left_out_on_purpose(served: Served) -> None:
    body = {"prompt": "a fox", **SMALL, "num_inference_step": 4}
    message = refused(served.client.post("/v1/videos", json=body), 400, "unknown_parameter", "num_inference_step")
    assert "did you mean 'num_inference_steps'?" in message
    lenient = served.client.post("/v1/videos?lenient=1", json=body)
    assert lenient.status_code == 200
    assert "num_inference_step" in lenient.json()["notices"][0]


def test_a_video_that_no_live_worker_can_make_says_so(served: Served) -> None:
    assert create(served)["notices"] is None
    assert "model is missing" in create(served, model="wan2.1-t2v-1.3b", size=None, num_frames=None)["notices"][0]
    assert "h200" in create(served, gpu="h200")["notices"][0]


def test_every_mistake_is_told_at_once(served: Served) -> None:
    answer = served.client.post("/v1/videos", json={"prompt": "x", **SMALL, "seed": "x", "fps": "fast"})
    assert {line.partition(":")[0] for line in answer.json()["error"]["message"].splitlines()} == {"seed", "fps"}


def test_several_are_one_group(served: Served) -> None:
    video = create(served, n=3, seed=40, custom_id="trio")
    assert (video["n"], video["seed"], len(video["group"])) == (3, 40, 3)
    others = [served.client.get(f"/v1/videos/{other}").json() for other in video["group"]]
    assert [other["seed"] for other in others] == [40, 41, 42]
    assert {other["group_id"] for other in others} == {video["group_id"]}


def test_equal_requests_make_different_videos(served: Served) -> None:
    assert create(served)["seed"] != create(served)["seed"]


# Bodies


def png(width: int = 16, height: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A picture of a few bytes that says it has a billion pixels."""
    header = bytearray(png())
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    return bytes(header)


BODIES: dict[str, tuple[bytes, str, int, str]] = {
    "nothing": (b"", "application/json", 400, "invalid_value"),
    "cut JSON": (b'{"prompt": "a', "application/json", 400, "invalid_json"),
    "list": (b"[]", "application/json", 400, "invalid_json"),
    "latin-1": ('{"prompt": "é"}'.encode("latin-1"), "application/json", 400, "invalid_json"),
    "a key twice": (b'{"prompt": "a", "prompt": "b"}', "application/json", 400, "invalid_json"),
    "deep": (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "application/json", 400, "invalid_json"),
    "NaN": (b'{"prompt": "a", "seconds": NaN}', "application/json", 400, "invalid_json"),
    "XML": (b"<a/>", "application/xml", 415, "unsupported_media_type"),
    "no boundary": (b"x", "multipart/form-data", 400, "invalid_form"),
    "wrong boundary": (b"--b\r\n\r\n--b--", "multipart/form-data; boundary=a", 400, "invalid_form"),
    "cut parts": (
        b'--a\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na fox',
        "multipart/form-data; boundary=a",
        400,
        "invalid_form",
    ),
    "part without name": (
        b"--a\r\ncontent-disposition: form-data\r\n\r\nx\r\n--a--\r\n",
        "multipart/form-data; boundary=a",
        400,
        "invalid_form",
    ),
    "part that is not UTF-8": (
        b'--a\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--a--\r\n',
        "multipart/form-data; boundary=a",
        400,
        "invalid_form",
    ),
    "form that is not UTF-8": (b"prompt=%ff", "application/x-www-form-urlencoded", 400, "invalid_form"),
    "field twice": (b"prompt=a&prompt=b", "application/x-www-form-urlencoded", 400, "invalid_form"),
    "open bracket": (b"prompt=a&a%5B=b", "application/x-www-form-urlencoded", 400, "invalid_form"),
    "deep brackets": (b"prompt=a&a" + b"[b]" * 50 + b"=c", "application/x-www-form-urlencoded", 400, "invalid_form"),
    "unequal items": (
        b"prompt=a&loras[][path]=a&loras[][path]=b&loras[][scale]=1",
        "application/x-www-form-urlencoded",
        400,
        "invalid_form",
    ),
    "many fields": (
        b"&".join(b"a%d=b" % n for n in range(400)),
        "application/x-www-form-urlencoded",
        400,
        "invalid_form",
    ),
    "long": (b'{"prompt": "' + b"a" * 200_000 + b'"}', "application/json", 413, "request_too_large"),
    "long form": (b"x" * 2_000_001, "multipart/form-data; boundary=a", 413, "request_too_large"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none_is_refused(served: Served, name: str) -> None:
    content, media_type, status, code = BODIES[name]
    answer = served.client.post("/v1/videos", content=content, headers={"content-type": media_type})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code, answer.text


def test_a_compressed_body_is_not_unpacked(served: Served) -> None:
    answer = served.client.post("/v1/videos", content=b"x", headers={"content-encoding": "gzip"})
    refused(answer, 415, "unsupported_media_type")


def test_a_long_body_without_a_length_is_cut_off(served: Served) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 10_000

    answer = served.client.post("/v1/videos", content=chunks(), headers={"content-type": "application/json"})
    refused(answer, 413, "request_too_large")


def test_a_hostile_picture_or_name_is_refused_and_stores_nothing(served: Served) -> None:
    before = served.client.get("/v1/videos?limit=1").json()["first_id"]
    fields = {"prompt": "x", "model": "svd-xt"}
    for content, name, shown in (
        (bomb(), "a cat.png", "a cat.png"),
        (b"<svg/>", "C:\\cats\\a.svg", "a.svg"),
        (b"", "a.png", "a.png"),
        (b"GIF89a", "..", "upload"),
        (b"GIF89a", "../../etc/cron.d/x", "x"),
        (b"GIF89a", "x\r\ny: z", "x%0D%0Ay: z"),
    ):
        answer = served.client.post("/v1/videos", data=fields, files={"input_reference": (name, content, "image/png")})
        assert repr(shown) in refused(answer, 400, "invalid_value", "input_reference")
    assert served.client.get("/v1/videos?limit=1").json()["first_id"] == before


def test_a_file_that_is_too_large_is_called_by_its_own_name(served: Served) -> None:
    large = served.client.post(
        "/v1/videos",
        data={"prompt": "x", "model": "svd-xt"},
        files={"input_reference": ("fox.png", b"\x89PNG" + bytes(1_500_000), "image/png")},
    )
    assert "'fox.png'" in refused(large, 400, "invalid_value", "input_reference")


@pytest.mark.parametrize("data", [b"[]", b'["prompt"]', b' [{"prompt": "a"}]'])
def test_a_list_is_no_request_however_it_is_called(served: Served, data: bytes) -> None:
    for label in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
        answer = served.client.post("/v1/videos", content=data, headers={"content-type": label})
        assert "not a JSON object" in refused(answer, 400, "invalid_json")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_slash_too_many_is_told_and_leads_nowhere(served: Served, method: str) -> None:
    message = refused(served.client.request(method, "/v1/videos/"), 404, "unknown_url")
    assert "did you mean /v1/videos?" in message


def test_an_uploaded_picture_is_an_input(served: Served) -> None:
    # A byte stream, as OpenAI's SDK sends it: the bytes say what it is
    files = {"input_reference": ("upload", png(1024, 576), "application/octet-stream")}
    answer = served.client.post("/v1/videos", data={"prompt": "x", "model": "svd-xt"}, files=files)
    assert answer.status_code == 200, answer.text
    served.client.delete(f"/v1/videos/{answer.json()['id']}")


def raw(served: Served, data: bytes, *, pause_s: float = 0.0) -> bytes:
    """What the server answers to these bytes."""
    url = served.client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=40) as connection:
        connection.sendall(data)
        time.sleep(pause_s)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def test_a_client_that_stops_in_the_middle_is_answered_and_let_go(served: Served) -> None:
    head = POST + b"content-length: 100\r\n\r\n{"
    assert b" 408 " in raw(served, head)


def test_a_head_that_never_ends_is_answered_and_let_go(served: Served) -> None:
    assert b" 408 " in raw(served, b"GET /v1/videos HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ")


def test_what_is_not_http_is_refused_in_the_same_form(served: Served) -> None:
    answer = raw(served, b"GET /v1/videos\r\nhost\x00: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "invalid_http"' in answer


def test_a_client_that_goes_away_leaves_nothing(served: Served) -> None:
    before = served.client.get("/v1/videos?limit=1").json()["first_id"]
    url = served.client.base_url
    for cut in (40, 130, 175):
        body = json.dumps({"prompt": "gone", **SMALL}).encode()
        head = POST + b"content-length: 900\r\n\r\n"
        with socket.create_connection((url.host, url.port or 80)) as connection:
            connection.sendall((head + body)[:cut])
    assert served.client.get("/v1/videos?limit=1").json()["first_id"] == before


@pytest.mark.parametrize(
    "path",
    ["video_%0d%0ax:%20y", "..%2f..%2fetc%2fpasswd", "video_" + "a" * 5000, "%00", "video_1-0;drop", "%f0%9f%a6%8a"],
)
def test_ids_that_cannot_be_are_not_found(served: Served, path: str) -> None:
    for url in (f"/v1/videos/{path}", f"/v1/videos/{path}/content"):
        answer = served.client.get(url)
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"]["code"] in ("video_not_found", "unknown_url")
        assert "x" not in answer.headers


# Lists


def test_pages_follow_each_other_whatever_is_deleted_between(served: Served) -> None:
    ids = [create(served, num_inference_steps=1)["id"] for _ in range(5)]
    listed: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = served.client.get("/v1/videos", params={"limit": 2, **after}).json()
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        listed += [video["id"] for video in page["data"]]
        served.client.delete(f"/v1/videos/{page['last_id']}")
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert [video for video in listed if video in ids] == ids[::-1]
    assert len(set(listed)) == len(listed)
    upwards = served.client.get("/v1/videos", params={"order": "asc", "limit": 100}).json()["data"]
    assert [video["id"] for video in upwards] == sorted(video["id"] for video in upwards)
    empty = served.client.get("/v1/videos", params={"after": ids[-1], "order": "asc", "limit": 1}).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    refused(served.client.get("/v1/videos?after=../x"), 400, "invalid_value", "after")
    refused(served.client.get("/v1/videos?order=up"), 400, "invalid_value", "order")
