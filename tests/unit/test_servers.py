"""The tests' own servers and guards: a broken one would make other tests pass for nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from tests import servers
from tests.conftest import REPOSITORY, NetworkForbiddenError
from tests.servers import Bucket, Server

START_AND_TELL = """
import time
from tests import servers
with servers.redis_server() as redis, servers.postgres_server() as postgres:
    print(redis.pid, postgres.pid, flush=True)
    time.sleep(600)
"""


def test_each_test_gets_an_empty_postgres_database(postgres_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        version = connection.execute(sqlalchemy.text("SHOW server_version")).scalar_one()
        tables = connection.execute(sqlalchemy.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        assert version.startswith("18")
        assert tables.scalar_one() == 0


def test_a_killed_postgres_comes_back_with_its_rows() -> None:
    with servers.postgres_server() as server:
        address = server.url.replace("+psycopg", "")
        with psycopg.connect(address) as connection:
            connection.execute("CREATE TABLE kept (n int)")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(address, connect_timeout=2)

        server.start()

        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_redis_comes_back_empty_unless_durable(redis_url: str) -> None:
    assert redis_url.startswith("redis://127.0.0.1:")
    for durable, kept in ((False, b"$-1"), (True, b"$1")):
        with servers.redis_server(durable=durable) as server:
            assert servers.redis_command(server.port, "SET a 1") == b"+OK"
            server.restart()
            assert servers.redis_command(server.port, "GET a") == kept


def test_redis_never_evicts(redis_server: Server) -> None:
    assert servers.redis_command(redis_server.port, "INFO memory").startswith(b"$")
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=5) as connection:
        connection.sendall(b"CONFIG GET maxmemory-policy\r\n")
        assert b"noeviction" in connection.recv(4096)


def test_servers_die_with_a_killed_test_run() -> None:
    with tempfile.TemporaryDirectory(prefix="vgen-test-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
        run = subprocess.Popen(
            [sys.executable, "-c", START_AND_TELL],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": folder},
        )
        assert run.stdout is not None
        with run.stdout:
            pids = [int(part) for part in run.stdout.readline().split()]
            run.send_signal(signal.SIGKILL)
            run.wait(20)
        assert len(pids) == 2

        give_up = time.monotonic() + 20
        while any(_alive(pid) for pid in pids):
            assert time.monotonic() < give_up, f"some of {pids} outlived the run"
            time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, and whoever adopted it has not asked yet


def test_remote_addresses_are_refused() -> None:
    with socket.socket() as probe, pytest.raises(NetworkForbiddenError):
        probe.connect(("192.0.2.1", 80))
    with pytest.raises(NetworkForbiddenError):
        urllib.request.urlopen("http://example.com/", timeout=1)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("store.invalid", 80)


def test_buckets_are_empty_and_apart(rclone_bucket: Bucket, moto_bucket: Bucket, s3: Bucket) -> None:
    assert len({rclone_bucket.endpoint_url, moto_bucket.endpoint_url}) == 2
    assert s3.env["VGEN_STORAGE"] == f"s3://{s3.name}"
    assert s3.env["VGEN_S3_ENDPOINT_URL"] == s3.endpoint_url


def test_the_users_settings_do_not_leak(tmp_path: Path) -> None:
    assert [name for name in os.environ if name.startswith("VGEN_")] == ["VGEN_PRESET"]  # of tests/conftest.py
    assert Path.cwd() == tmp_path
    assert Path.home().is_relative_to(tmp_path)
