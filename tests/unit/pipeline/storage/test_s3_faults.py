"""A store that is wrong, gone, slow or failing, over real connections."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.exceptions
import pytest
from botocore.exceptions import ReadTimeoutError

from pipeline.errors import FatalError, InputError, RefusedError, RetryableError, SettingsError, StageError
from pipeline.settings import S3Settings
from pipeline.storage.s3 import S3Storage
from pipeline.storage.s3_errors import kind_of_class
from tests import servers
from tests.faults.proxy import StoreFault, StoreProxy, running_proxies
from tests.servers import Bucket

MEBIBYTE = 1024 * 1024


def open_bucket(bucket: Bucket, name: str | None = None, **changes: object) -> S3Storage:
    return S3Storage(name or bucket.name, "", S3Settings.model_validate({**bucket.s3, **changes}))


def every_use_raises(storage: S3Storage, kind: type[StageError], code: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    uses = (
        lambda: storage.put_bytes("a", b"x", content_type="text/plain"),
        lambda: storage.put_file(
            "a", tmp_path / "file", sha256=hashlib.sha256(b"x").hexdigest(), content_type="text/plain"
        ),
        lambda: storage.stat("a"),
        lambda: storage.read_bytes("a"),
        lambda: storage.download("a", tmp_path / "copy"),
        lambda: list(storage.list("")),
        storage.check,
    )
    for use in uses:
        with pytest.raises(kind) as error:
            use()
        assert error.value.code == code
    assert not (tmp_path / "copy").exists()


@contextlib.contextmanager
def answering(
    status: int, body: bytes = b"", *, wait: threading.Event | None = None
) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that always answers the same; yields its URL and the methods it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if wait is not None:
                wait.wait(30)
            with contextlib.suppress(OSError):  # the client has given up
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815  # names that http.server asks for

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name in the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        if wait is not None:
            wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_wrong_keys_are_denied(rclone_bucket: Bucket, tmp_path: Path) -> None:
    for changes in ({"secret_access_key": "wrong"}, {"access_key_id": "unknown"}):
        every_use_raises(open_bucket(rclone_bucket, **changes), RefusedError, "storage_denied", tmp_path)


def test_no_keys_at_all_are_denied(rclone_bucket: Bucket, tmp_path: Path) -> None:
    storage = open_bucket(rclone_bucket, access_key_id=None, secret_access_key=None)
    every_use_raises(storage, RefusedError, "storage_denied", tmp_path)


@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_a_missing_bucket_is_said(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    storage = open_bucket(request.getfixturevalue(f"{kind}_bucket"), "no-such-bucket")
    every_use_raises(storage, RefusedError, "storage_missing", tmp_path)


def test_a_store_that_is_gone_can_be_tried_again(tmp_path: Path) -> None:
    with servers.rclone_s3_server() as server:
        storage = open_bucket(servers.fresh_bucket(server))
        storage.check()
        server.kill()
        with pytest.raises(RetryableError) as error:
            storage.stat("a")
        assert error.value.code == "temporarily_unavailable"
        server.start()
        storage.check()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_failing_stores_are_tried_a_bounded_number_of_times(status: int) -> None:
    with answering(status) as (url, asked):
        storage = open_bucket(Bucket(url, "bucket"))
        with pytest.raises(RetryableError) as error:
            storage.put_bytes("a", b"x", content_type="text/plain")
        assert error.value.code == "temporarily_unavailable"
        assert asked == ["PUT"] * 3


def test_a_store_that_does_not_answer_is_given_up() -> None:
    with answering(200, wait=threading.Event()) as (url, asked):
        storage = open_bucket(Bucket(url, "bucket"), timeout_s=0.2)
        with pytest.raises(RetryableError, match="Timeout"):
            storage.read_bytes("a")
        assert len(asked) == 3


def test_an_endpoint_that_is_no_store() -> None:
    with answering(200, b"<html>hello") as (url, _), pytest.raises(StageError):
        list(open_bucket(Bucket(url, "bucket")).list(""))
    with answering(404, b"<html>not here") as (url, _), pytest.raises(RefusedError) as error:
        open_bucket(Bucket(url, "bucket")).put_bytes("a", b"x", content_type="text/plain")
    assert error.value.code == "storage_missing"
    with pytest.raises(RetryableError):
        open_bucket(Bucket("http://store.invalid", "bucket")).stat("a")
    with pytest.raises(SettingsError, match="VGEN_S3_ENDPOINT_URL"):
        open_bucket(Bucket("not a url", "bucket")).stat("a")


def test_a_failed_multipart_upload_leaves_no_parts(moto_bucket: Bucket, tmp_path: Path) -> None:
    storage = open_bucket(moto_bucket, multipart_threshold=5 * MEBIBYTE)
    data = bytes(6 * MEBIBYTE)
    path = tmp_path / "one"
    path.write_bytes(data)
    begun: list[int] = []

    def fail(**_: object) -> None:
        begun.append(len(storage._client.list_multipart_uploads(Bucket=moto_bucket.name).get("Uploads", [])))
        raise ReadTimeoutError(endpoint_url="http://store.invalid")

    storage._client.meta.events.register("before-call.s3.CompleteMultipartUpload", fail)
    with pytest.raises(RetryableError):
        storage.put_file("a", path, sha256=hashlib.sha256(data).hexdigest(), content_type="video/mp4")

    assert begun == [1]
    assert storage._client.list_multipart_uploads(Bucket=moto_bucket.name).get("Uploads", []) == []
    assert storage.stat("a") is None


def test_type_and_digest_are_kept_with_the_object(moto_bucket: Bucket) -> None:
    storage = open_bucket(moto_bucket)
    storage.put_bytes("a", b"x", content_type="video/mp4")
    found = storage.stat("a")
    assert found is not None
    assert found.sha256 == hashlib.sha256(b"x").hexdigest()
    assert storage._client.head_object(Bucket=moto_bucket.name, Key="a")["ContentType"] == "video/mp4"


def test_damage_in_the_store_is_noticed(moto_bucket: Bucket, tmp_path: Path) -> None:
    storage = open_bucket(moto_bucket)
    recorded = {"sha256": hashlib.sha256(b"whole").hexdigest()}
    storage._client.put_object(Bucket=moto_bucket.name, Key="a", Body=b"wrong", Metadata=recorded)
    for use in (lambda: storage.read_bytes("a"), lambda: storage.download("a", tmp_path / "copy")):
        with pytest.raises(RetryableError) as error:
            use()
        assert error.value.code == "storage_corrupt"
    assert list(tmp_path.glob("copy*")) == []


@pytest.mark.parametrize("expires_s", [0, -1, 604_801])
def test_urls_for_too_long_are_refused(rclone_bucket: Bucket, expires_s: int) -> None:
    with pytest.raises(InputError, match="604800 s"):
        open_bucket(rclone_bucket).url("a", expires_s=expires_s)
    assert "X-Amz-Expires=604800" in open_bucket(rclone_bucket).url("a", expires_s=604_800)


def test_urls_name_the_public_endpoint(rclone_bucket: Bucket) -> None:
    storage = open_bucket(rclone_bucket, public_endpoint_url="https://media.example.com")
    url = storage.url("a b", expires_s=60)
    assert url.startswith(f"https://media.example.com/{rclone_bucket.name}/a%20b?")
    assert "AWS4-HMAC-SHA256" in url


def test_every_error_of_the_client_is_mapped() -> None:
    classes = [
        found
        for _, found in inspect.getmembers(botocore.exceptions, inspect.isclass)
        if issubclass(found, Exception) and found.__module__ == "botocore.exceptions"
    ]
    by_answer = {"ClientError", "EventStreamError"}  # mapped by their code and status
    unmapped = [c.__name__ for c in classes if kind_of_class(c) is None and c.__name__ not in by_answer]
    assert unmapped == ["BotoCoreError"]  # the base of all: an instance of it is a bug
    assert len(classes) > 90


def test_an_unknown_refusal_is_a_bug() -> None:
    body = b"<Error><Code>EntityTooLarge</Code><Message>no</Message></Error>"
    with answering(400, body) as (url, _), pytest.raises(FatalError, match="EntityTooLarge"):
        open_bucket(Bucket(url, "bucket")).put_bytes("a", b"x", content_type="text/plain")


@pytest.mark.parametrize("method", ["HEAD", "PUT", "GET", "DELETE", "POST"])
def test_the_check_meets_whatever_the_line_would_be_denied_and_leaves_nothing(
    method: str, rclone_server: servers.Server, rclone_bucket: Bucket
) -> None:
    with running_proxies() as opened:
        proxy = StoreProxy(opened, rclone_server.port)
        storage = open_bucket(replace(rclone_bucket, endpoint_url=f"http://127.0.0.1:{proxy.port}"))
        proxy.fail(StoreFault.DENIED, method=method)

        with pytest.raises(RefusedError) as error:
            storage.check()

        assert error.value.code == "storage_denied"
        assert list(open_bucket(rclone_bucket).list("")) == []
