"""The proxies do what they are told, so that a fault test that passes has met its fault."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RetryableError
from pipeline.settings import S3Settings
from pipeline.storage.s3 import S3Storage
from tests.faults.proxy import Mode, Proxies, Proxy, StoreFault, StoreProxy, running_proxies
from tests.servers import Bucket, Server


@pytest.fixture(scope="module")
def proxies() -> Iterator[Proxies]:
    with running_proxies() as running:
        yield running


def ping(link: socket.socket) -> bytes:
    link.sendall(b"PING\r\n")
    return link.recv(100)


def test_connections_are_passed_cut_refused_and_swallowed(proxies: Proxies, redis_server: Server) -> None:
    proxy = Proxy(proxies, redis_server.port)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", proxy.port), timeout=30)

    with connect() as link:
        assert ping(link) == b"+PONG\r\n"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    proxy.set(Mode.REFUSE)
    with pytest.raises(ConnectionError), connect() as link:
        ping(link)
    proxy.set(Mode.SWALLOW)
    with connect() as link:
        link.settimeout(0.5)
        with pytest.raises(TimeoutError):
            ping(link)
        proxy.heal()
    with connect() as link:
        assert ping(link) == b"+PONG\r\n"


@pytest.mark.parametrize("fault", list(StoreFault))
def test_a_put_meets_the_fault_once_and_the_next_one_passes(
    proxies: Proxies, rclone_server: Server, rclone_bucket: Bucket, tmp_path: Path, fault: StoreFault
) -> None:
    proxy = StoreProxy(proxies, rclone_server.port)
    through = Bucket(f"http://127.0.0.1:{proxy.port}", rclone_bucket.name)
    store = S3Storage(through.name, "", S3Settings.model_validate(through.s3))
    proxy.fail(fault, times=3)

    try:
        store.put_bytes("key", b"content", content_type="text/plain")
    except Exception:  # noqa: BLE001  # botocore hides some of them by asking again
        assert fault is not StoreFault.SLOW
    assert proxy.met[:1] == [fault]
    proxy.heal()

    store.put_bytes("key", b"content", content_type="text/plain")
    assert store.read_bytes("key") == b"content"


@pytest.mark.parametrize("fault", [StoreFault.VANISHED, StoreFault.WRONG_BODY])
def test_a_put_itself_notices_that_not_everything_arrived(
    proxies: Proxies, rclone_server: Server, rclone_bucket: Bucket, tmp_path: Path, fault: StoreFault
) -> None:
    proxy = StoreProxy(proxies, rclone_server.port)
    through = Bucket(f"http://127.0.0.1:{proxy.port}", rclone_bucket.name)
    parts = {**through.s3, "multipart_threshold": 5 * 1024 * 1024}
    store = S3Storage(through.name, "", S3Settings.model_validate(parts))
    proxy.fail(fault)
    with pytest.raises(RetryableError) as error:
        store.put_bytes("small", b"content", content_type="text/plain")
    assert error.value.code == "storage_corrupt"

    content = bytes(6 * 1024 * 1024)
    (tmp_path / "large").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    proxy.fail(fault)
    with pytest.raises(RetryableError):
        store.put_file("large", tmp_path / "large", sha256=digest, content_type="video/mp4")
