"""`/api/v1` of a real server: prompt files in, documents of ``--json`` out, and events that are told once."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.reference import JSON_OUTPUT
from tests.cli_process import until, vgen
from tests.serving import Served, serving

SMALL = '{"prompt": "a fox", "num_frames": 5, "width": 64, "height": 64, "seed": 7, "labels": {"part": "one"}}\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as served:
        yield served


def submit(served: Served, text: str = SMALL, **options: Any) -> str:
    answer = served.client.post("/api/v1/batches", json={"text": text, "format": "jsonl", "again": True, **options})
    assert answer.status_code == 200, answer.text
    batch_id: str = answer.json()["batch"]["id"]
    return batch_id


def listed(served: Served) -> list[str]:
    return [batch["id"] for batch in served.client.get("/api/v1/batches").json()["batches"]]


def ended(served: Served, batch_id: str) -> dict[str, Any]:
    status: dict[str, Any] = {}

    def has_ended() -> bool:
        status.update(served.client.get(f"/api/v1/batches/{batch_id}").json())
        return bool(status["batch"]["finished"])

    until(has_ended)
    return status


@pytest.fixture(scope="module")
def made(served: Served) -> str:
    """A batch of two clips that are made."""
    batch_id = submit(served, SMALL + SMALL.replace("fox", "boat"))
    assert ended(served, batch_id)["batch"]["counts"]["succeeded"] == 2
    return batch_id


def streamed(served: Served, path: str, after: str | None = None) -> Iterator[tuple[str | None, str, Any]]:
    """The messages of a stream: id, kind, data. None where everything was told before: 204 tells a browser to stop."""
    headers = {"accept": "text/event-stream"} | ({} if after is None else {"last-event-id": after})
    with served.client.stream("GET", path, headers=headers) as stream:
        if stream.status_code == 204:
            return
        assert stream.headers["content-type"].startswith("text/event-stream")
        message: dict[str, str] = {}
        for line in stream.iter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                message[name] = value
            elif message.keys() & {"data"}:
                yield message.get("id"), message.get("event", "message"), json.loads(message["data"])
                message = {}


def entries(messages: Iterator[tuple[str | None, str, Any]]) -> list[tuple[str | None, Any]]:
    return [(place, data) for place, kind, data in messages if kind == "message"]


def test_a_prompt_file_goes_in_as_text_and_as_an_upload(served: Served) -> None:
    text = served.client.post("/api/v1/batches", json={"text": SMALL, "format": "jsonl", "name": "mine", "key": "k1"})
    upload = served.client.post(
        "/api/v1/batches/upload", files={"file": ("../mine.jsonl", SMALL.encode())}, data={"name": "mine", "key": "k1"}
    )

    assert (text.status_code, upload.status_code) == (200, 200), upload.text
    assert text.json()["created"]
    assert not upload.json()["created"]
    assert upload.json()["batch"]["id"] == text.json()["batch"]["id"]
    assert text.json()["batch"]["name"] == "mine"


def test_a_dry_run_stores_nothing(served: Served) -> None:
    before = listed(served)

    plan = served.client.post("/api/v1/batches", json={"text": "a\nb\n" * 600, "dry_run": True})
    upload = served.client.post(
        "/api/v1/batches/upload",
        files={"file": ("p.txt", b"a\nb\n")},
        data={"dry_run": "true", "gate": ["checks"], "score": "checks"},
    )

    assert (plan.json()["total"], len(plan.json()["jobs"])) == (1200, 1000)
    assert upload.json()["total"] == 2
    assert listed(served) == before


@pytest.mark.parametrize(
    ("body", "param", "line", "said"),
    [
        ({"text": '{"prompt": "a"}\n{"promt": "a"}', "format": "jsonl"}, "promt", 2, "did you mean 'prompt'?"),
        ({"text": '{"prompt": "a", "image": "/etc/passwd"}', "format": "jsonl"}, "image", 1, "is a path"),
        ({"text": '{"prompt": "a", "lora": "/x.safetensors"}', "format": "jsonl"}, "lora", 1, "lora"),
        ({"text": ""}, None, None, "holds no prompt"),
        ({"text": "a", "format": "docx"}, "format", None, "'docx' is not possible: Input should be"),
        ({"text": "a", "nam": "b"}, "nam", None, "not a field of this request (did you mean 'name'?)"),
        ({"text": "a", "name": "b\0"}, "name", None, r"'b\x00' holds a NUL"),
        ({"text": "a", "gate": "checks"}, "gate", None, "'checks' is not possible"),
        ({"text": "a", "codec": "nonesuch"}, "codec", None, "nonesuch"),
        ({"text": "a", "gate": ["checks"]}, "gate", None, "names no metric"),
        ({"text": "a", "score": "nonesuch"}, "score", None, "'nonesuch' is not a metric"),
        ({"text": '{"prompt": "a", "enhance": true}', "format": "jsonl"}, "enhance", 1, "names no provider"),
        ({"text": "a", "by": "soon"}, "by", None, "not a valid time"),
        ({"text": "a", "max_gpu_hours": -1}, "max_gpu_hours", None, "not possible"),
        ({"text": "a", "max_cost": 1}, "max_cost", None, "prices"),
        ({"text": "a", "key": "k", "again": True}, None, None, "key and again exclude each other"),
        ({"text": "a", "key": ""}, "key", None, "1 to 128"),
        ({}, "text", None, "is missing"),
    ],
)
def test_mistakes_are_named_with_their_lines_and_nothing_is_stored(
    served: Served, body: dict[str, Any], param: str | None, line: int | None, said: str
) -> None:
    before = listed(served)

    answer = served.client.post("/api/v1/batches", json=body)

    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["param"], error.get("line")) == (param, line), error
    assert "--" not in error["message"], "what a command line is told"
    assert "`vgen" not in error["message"]
    assert said in error["message"]
    if line is not None:
        assert [problem["line"] for problem in error["problems"]] == [line]
    assert listed(served) == before


@pytest.mark.parametrize("label", ["application/x-www-form-urlencoded", "text/plain", "application/json", ""])
def test_json_is_read_whatever_it_is_called(served: Served, label: str) -> None:
    def post(path: str, data: bytes) -> tuple[int, Any]:
        answer = served.client.post(f"/api/v1/{path}", content=data, headers={"content-type": label})
        return answer.status_code, answer.json()

    assert post("batches", b'{"text": "a fox", "dry_run": true}')[1]["total"] == 1
    assert post("queues/resume", b'{"everything": true}')[1]["paused"] is False
    for data, said in [
        (b"[]", "not a JSON object"),
        (b'{"text":', "ends too early"),
        (b"a=b", "not JSON"),
        (b"\xff", "UTF-8"),
    ]:
        status, document = post("batches", data)
        assert (status, document["error"]["code"]) == (400, "invalid_json")
        assert said in document["error"]["message"]
    status, document = post("batches", b"")
    assert (status, document["error"]["message"]) == (400, "text: is missing")


@pytest.mark.parametrize(
    ("path", "param", "said"),
    [
        ("/v1/videos?limit=0", "limit", "'0' is not possible"),
        ("/v1/videos/video_1-000000?wait=abc", "wait", "'abc' is not possible"),
        ("/api/v1/batches?limit=many", "limit", "'many' is not possible"),
        ("/api/v1/batches/1/jobs?state=gone", "state", "'gone' is not possible"),
        ("/api/v1/batches?after=nope", "after", "'nope' is not the id of a batch"),
        ("/v1/videos?limt=3", "limt", "did you mean 'limit'?"),
        ("/v1/videos/video_1-000000?wiat=3", "wiat", "did you mean 'wait'?"),
        ("/v1/models?x=1", "x", "not a query parameter"),
        ("/status/1-000000?xyz=3", "xyz", "not a query parameter"),
        ("/api/v1/batches?aftr=1&after=nope", "aftr", "did you mean 'after'?"),
    ],
)
def test_parameters_are_refused_with_their_values(served: Served, path: str, param: str, said: str) -> None:
    answer = served.client.get(path)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert said in answer.json()["error"]["message"]


FORM = (
    b'--b\r\ncontent-disposition: form-data; name="key"\r\n\r\nfox\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="p.txt"\r\n\r\na\r\n--b--\r\n'
)
"""An upload as it goes over the wire."""


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"files": {"file": ("p.docx", b"a")}}, "p.docx"),
        ({"files": {"other": ("p.txt", b"a")}}, "file: upload"),
        ({"data": {"file": "a"}}, "file: upload"),
        ({"files": {"file": ("p.txt", b"\xff\xfe\xfd")}}, "p.txt"),
        ({"files": {"file": ("p.txt", b"a")}, "data": {"dry_run": "perhaps"}}, "dry_run"),
        ({"files": {"file": ("p\r\n\0.txt", b"")}}, "holds no prompt"),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, ""),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "Missing boundary"),
        ({"content": FORM[:-6], "headers": {"content-type": "multipart/form-data; boundary=b"}}, "cut off"),
        (
            {"content": FORM.replace(b"fox", b"\xff"), "headers": {"content-type": "multipart/form-data; boundary=b"}},
            "key",
        ),
        ({"json": {"file": "a"}}, "file: upload"),
    ],
)
def test_uploads_that_are_none_are_refused(served: Served, request_: dict[str, Any], said: str) -> None:
    answer = served.client.post("/api/v1/batches/upload", **request_)

    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]


def test_documents_are_those_of_the_command_line(served: Served, home: Path, made: str) -> None:
    job_id = f"{made}-000000"
    for command, path in (
        (["list"], "/api/v1/batches"),
        (["list", made], f"/api/v1/batches/{made}/jobs"),
        (["show", job_id], f"/api/v1/jobs/{job_id}"),
        (["report", made], f"/api/v1/batches/{made}/report"),
    ):
        answer = served.client.get(path)
        assert answer.json() == json.loads(vgen("--home", home, *command, "--json").stdout), path
    status = JSON_OUTPUT["status"].model_validate(served.client.get(f"/api/v1/batches/{made}").json())
    assert status.batch.finished  # type: ignore[attr-defined]
    assert JSON_OUTPUT["workers"].model_validate(served.client.get("/api/v1/workers").json())


def test_a_browser_sees_what_was_made(served: Served, made: str) -> None:
    wall = served.client.get(f"/batches/{made}", headers={"accept": "text/html"})
    assert "script-src 'self'" in wall.headers["content-security-policy"]
    files = re.findall(rf'"(/media/{made}-[^"]+)"', wall.text)
    assert len(files) == 2 * len(("video", "poster", "strip"))
    for path in files:
        whole, part = served.client.get(path), served.client.get(path, headers={"range": "bytes=0-9"})
        if whole.headers["content-type"] == "image/webp":  # made for the wall, and sent whole: it is small
            assert (whole.status_code, part.status_code, part.content) == (200, 200, whole.content)
        else:
            assert (whole.status_code, part.status_code, part.content) == (200, 206, whole.content[:10])
        assert "immutable" in whole.headers["cache-control"]
    with served.client.stream("GET", f"/live/batches/{made}") as stream:
        told = stream.read().decode()
    assert told.count(f"#clip-{made}-") == 2
    assert "event: done" in told


def test_lists_come_by_pages(served: Served) -> None:
    ids = [submit(served, SMALL * 5) for _ in range(3)]
    for batch_id in ids:
        served.client.post(f"/api/v1/batches/{batch_id}/cancel")

    pages, after = [], None
    while True:
        page = served.client.get("/api/v1/batches", params={"limit": 2} | ({"after": after} if after else {})).json()
        pages += [batch["id"] for batch in page["batches"]]
        if not page["has_more"]:
            break
        after = page["batches"][-1]["id"]
    assert pages == sorted(pages, reverse=True)
    assert set(pages) >= set(ids)

    first = served.client.get(f"/api/v1/batches/{ids[0]}/jobs", params={"limit": 3}).json()
    rest = served.client.get(f"/api/v1/batches/{ids[0]}/jobs", params={"after": first["jobs"][-1]["id"]}).json()
    assert (len(first["jobs"]), first["has_more"], len(rest["jobs"]), rest["has_more"]) == (3, True, 2, False)
    states = served.client.get(f"/api/v1/batches/{ids[0]}/jobs", params={"state": ["failed", "held"]}).json()
    assert states["jobs"] == []
    wrong = served.client.get(f"/api/v1/batches/{ids[0]}/jobs", params={"after": f"{ids[1]}-000000"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


def test_what_a_person_asks_is_done(served: Served) -> None:
    batch_id = submit(served, SMALL + SMALL.replace("one", "two").replace("fox", "owl"))
    jobs = [f"{batch_id}-000000", f"{batch_id}-000001"]

    def post(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = served.client.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 200, (path, answer.text)
        return dict(answer.json())

    assert post(f"batches/{batch_id}/pause")["changed"] == [batch_id]
    assert post(f"batches/{batch_id}/pause")["unchanged"] == [batch_id]
    assert post(f"batches/{batch_id}/cancel", {"label": "part=two"})["changed"] == [jobs[1]]
    assert post(f"jobs/{jobs[0]}/cancel")["changed"] == [jobs[0]]
    assert post(f"batches/{batch_id}/retry", {"code": "nonesuch"})["changed"] == []
    assert post(f"batches/{batch_id}/retry", {"label": "part=one"})["changed"] == [jobs[0]]
    assert post(f"jobs/{jobs[1]}/retry")["changed"] == [jobs[1]]
    assert post(f"batches/{batch_id}/approve") == {"changed": [], "unchanged": [], "reasons": {}}
    assert post(f"jobs/{jobs[0]}/reject")["unchanged"] == [jobs[0]]
    assert post(f"jobs/{jobs[1]}/cancel")["changed"] == [jobs[1]]
    assert post(f"jobs/{jobs[1]}/cancel")["reasons"] == {jobs[1]: "it is cancelled, not waiting or held or in_flight"}
    assert post(f"jobs/{jobs[1]}/retry")["reasons"] == {}
    status = served.client.patch(f"/api/v1/batches/{batch_id}/budget", json={"max_gpu_hours": 2, "by": "+3h"}).json()
    assert (status["batch"]["max_gpu_hours"], status["batch"]["deadline_at"] is None) == (2, False)
    status = served.client.patch(f"/api/v1/batches/{batch_id}/budget", json={"by": None}).json()
    assert (status["batch"]["max_gpu_hours"], status["batch"]["deadline_at"]) == (2, None)
    assert post("queues/pause", {"everything": True})["queues"] == ["*"]
    assert post("queues/resume", {"everything": True})["queues"] == []
    assert post(f"batches/{batch_id}/resume")["changed"] == [batch_id]
    assert ended(served, batch_id)["batch"]["counts"]["succeeded"] == 2


def test_a_clip_is_made_once_more_and_goes_on(served: Served, made: str) -> None:
    job_id = f"{made}-000000"
    again = served.client.post(f"/api/v1/jobs/{job_id}/rerun").json()["batch"]["id"]
    longer = served.client.post(f"/api/v1/jobs/{job_id}/extend", json={"prompt": "it runs", "whole": False}).json()

    ended(served, again)
    assert ended(served, longer["batch"]["id"])["batch"]["counts"]["succeeded"] == 1
    first, second = (served.client.get(f"/api/v1/jobs/{name}").json() for name in (job_id, f"{again}-000000"))
    assert first["rolls"][0]["frames_sha256"] == second["rolls"][0]["frames_sha256"]

    wrong = served.client.post(f"/api/v1/jobs/{job_id}/extend", json={"prompt": "", "num_frames": 6})
    assert wrong.status_code == 400
    assert [text.partition(":")[0] for text in wrong.json()["error"]["message"].splitlines()] == [
        "prompt",
        "num_frames",
    ]


@pytest.mark.parametrize("job_id", ["none", "a%00b", "%ff", "'", "x" * 5000])
def test_ids_that_cannot_be_do_not_exist(served: Served, job_id: str) -> None:
    for path in (f"/api/v1/jobs/{job_id}", f"/api/v1/batches/{job_id}", f"/api/v1/batches/{job_id}/events"):
        answer = served.client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_history_comes_by_pages_and_as_a_stream_alike(served: Served, made: str) -> None:
    path = f"/api/v1/batches/{made}/events"
    paged: list[Any] = []
    after = "0-0-0"
    while True:
        page = served.client.get(path, params={"after": after, "limit": 3}).json()
        paged += page["entries"]
        after = page["next"]
        if not page["has_more"]:
            break

    told = entries(streamed(served, path))
    assert [data for _, data in told] == paged
    assert told[0][1]["kind"] == "submitted"
    of_job = entries(streamed(served, f"/api/v1/jobs/{made}-000001/events"))
    assert {data["job_id"] for _, data in of_job} == {f"{made}-000001"}
    # And from any place on the rest is told
    for number, (place, _) in enumerate(told[:-1]):
        assert [data for _, data in entries(streamed(served, path, place))] == paged[number + 1 :]
    # And a browser that comes back after the end is told to stop
    answer = served.client.get(path, headers={"accept": "text/event-stream", "last-event-id": after})
    assert answer.status_code == 204


@pytest.mark.parametrize("place", ["x", "1", "-1-0-0", "1-2", "1-2-", "9" * 40 + "-0-0"])
def test_a_place_that_is_none_is_refused(served: Served, made: str, place: str) -> None:
    path = f"/api/v1/batches/{made}/events"
    by_query = served.client.get(path, params={"after": place})
    by_header = served.client.get(path, headers={"last-event-id": place, "accept": "text/event-stream"})

    assert (by_query.status_code, by_query.json()["error"]["param"]) == (400, "after")
    assert by_header.status_code == 400
    assert place in by_header.json()["error"]["message"]


def test_a_stream_goes_on_after_its_server_was_killed(tmp_path: Path) -> None:
    """Each entry is told once, over three servers of which two are killed in the middle."""
    told: list[tuple[str | None, Any]] = []
    batch_id, after = "", None
    for kills in (2, 1, 0):
        with serving(tmp_path) as served:
            batch_id = batch_id or submit(served, SMALL * 6)
            path = f"/api/v1/batches/{batch_id}/events"
            try:
                for place, kind, data in streamed(served, path, after):
                    if kind == "message":
                        told.append((place, data))
                        after = place
                    if kills and kind == "message" and data["kind"] == "attempt" and data["data"]["stage"] == "publish":
                        served.process.send_signal(signal.SIGKILL)
                        served.process.wait(60)
            except httpx.RemoteProtocolError:
                assert kills
            if not kills:
                whole = served.client.get(path, params={"limit": 1000}).json()
                assert not whole["has_more"]
    counted = sorted(json.dumps(data, sort_keys=True) for _, data in told)
    assert counted == sorted(json.dumps(data, sort_keys=True) for data in whole["entries"])
    assert len({place for place, _ in told}) == len(told)


def test_a_stop_ends_streams_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        batch_id = submit(served)
        served.client.post(f"/api/v1/batches/{batch_id}/pause")
        messages = streamed(served, f"/api/v1/batches/{batch_id}/events")
        assert next(messages)[2]["kind"] == "submitted"
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert all(kind != "done" for _, kind, _ in messages)
        assert served.process.wait(60) == 0
        assert time.monotonic() - began < 20
