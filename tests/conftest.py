"""What every test gets: no settings of the user, no network but 127.0.0.1, and real servers on request."""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# Read by huggingface_hub at import, so before any test module is collected.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# By torch at import, here and in every child: models so small take many times the work on several threads.
os.environ["OMP_NUM_THREADS"] = "1"

from pipeline.settings import current_settings
from tests import servers
from tests.scheduling import pytest_xdist_make_scheduler
from tests.servers import Bucket, Server

__all__ = ["pytest_xdist_make_scheduler"]

# Tests judge behaviour, not how long something took: a busy machine makes examples slowly.
# They judge it on the same examples each time, so that what fails has been changed: `--hypothesis-profile explore`
# looks for new ones, which become examples of their tests.
hypothesis_settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.register_profile("vgen", hypothesis_settings.get_profile("explore"), derandomize=True)
hypothesis_settings.load_profile("vgen")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """What was imported stays: a generator that gives its model's memory back (``gc.collect``) need not look at all of
    torch and the test modules each time, which took it half a second."""
    gc.collect()
    gc.freeze()


class NetworkForbiddenError(RuntimeError):
    """A test tried to reach something that is not on this machine. Not an OSError, so that nobody retries it."""


def _is_local(host: object) -> bool:
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).split("%", maxsplit=1)[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _only_local_network() -> Iterator[None]:
    real_connect, real_connect_ex, real_lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse_remote(family: int, address: Any) -> None:
        if family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise NetworkForbiddenError(f"test tried to connect to {address!r}")

    def connect(self: socket.socket, address: Any) -> None:
        refuse_remote(self.family, address)
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        refuse_remote(self.family, address)
        return real_connect_ex(self, address)

    def lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith(".invalid"):  # reserved: never resolves (RFC 2606)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not _is_local(name):
            raise NetworkForbiddenError(f"test tried to look up {name!r}")
        return real_lookup(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        patch.setattr(socket, "getaddrinfo", lookup)
        yield


_PRESET = ("VGEN_PRESET", "tiny-wan")
"""Most tests are of mechanics: the model that is built in a second and makes any size and length."""
os.environ[_PRESET[0]] = _PRESET[1]  # also for what modules read when they are imported, and servers of a whole module


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variable (VGEN_*, AWS_*), vgen.toml, .env or home folder of the user; child processes still find our code."""
    for name in list(os.environ):
        if name.startswith(("VGEN_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv(*_PRESET)
    home = tmp_path / "user-home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    current_settings.cache_clear()
    yield
    current_settings.cache_clear()


@contextmanager
def _started(make: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    """A server; where its wheel is missing, a laptop skips and CI fails."""
    try:
        manager = make()
    except servers.MissingServerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with manager as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One PostgreSQL for the whole run; use ``postgres_url`` unless the test stops it."""
    with _started(servers.postgres_server) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of this test's own."""
    with servers.fresh_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    with _started(servers.redis_server) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """URL of an empty Redis."""
    assert servers.redis_command(redis_server.port, "FLUSHALL") == b"+OK"
    return redis_server.url


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[Server]:
    with _started(servers.rclone_s3_server) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with _started(servers.moto_server) as server:
        yield server


@pytest.fixture
def rclone_bucket(rclone_server: Server) -> Bucket:
    """An empty bucket of a store that checks keys and ignores conditional puts."""
    return servers.fresh_bucket(rclone_server)


@pytest.fixture
def moto_bucket(moto_server: Server) -> Bucket:
    """An empty bucket of a store that honours conditional puts."""
    return servers.fresh_bucket(moto_server)


@pytest.fixture
def s3(rclone_bucket: Bucket) -> Bucket:
    """An empty bucket for tests to which the kind of store does not matter."""
    return rclone_bucket
