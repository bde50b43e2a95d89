"""Flower over a working cluster: behind a password, and without a prompt in sight."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.cluster import VGEN, Cluster, wait_for
from tests.die_with_parent import dying_with_us
from tests.servers import answers, free_port

LOGIN = "watcher:a-long-password"
PROMPT = "a very secret lighthouse"


@pytest.fixture(scope="module")
def flower(cluster: Cluster) -> Iterator[str]:
    """URL of a Flower that watches the cluster."""
    port = free_port()
    process = subprocess.Popen(
        dying_with_us([*VGEN, "flower", "--port", str(port)], signal.SIGTERM),
        env={**cluster.env, "VGEN_FLOWER_BASIC_AUTH": LOGIN},
        cwd=cluster.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(port), "Flower listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def get(url: str, login: str | None = LOGIN) -> bytes:
    request = urllib.request.Request(url)
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with urllib.request.urlopen(request, timeout=20) as response:
        return bytes(response.read())


@pytest.mark.parametrize("login", [None, "watcher:wrong"])
@pytest.mark.parametrize("page", ["/", "/api/tasks", "/api/workers"])
def test_nobody_looks_without_the_password(flower: str, page: str, login: str | None) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(flower + page, login)
    with refused.value:
        assert refused.value.code == 401


def test_it_shows_the_tasks_and_workers_of_a_batch_but_no_prompt(cluster: Cluster, flower: str) -> None:
    # Given a batch that has run under Flower's eyes
    wait_for(lambda: json.loads(get(flower + "/api/workers?refresh=1")), "Flower sees workers")
    prompts = cluster.folder / "flower.txt"
    prompts.write_text(f"{PROMPT}\n")
    assert cluster.vgen("submit", "--wait", str(prompts), "--preset", "idle").returncode == 0, cluster.log
    job = cluster.one("SELECT id FROM jobs ORDER BY created_at DESC LIMIT 1")

    # When its API is asked
    stages = {f"vgen.{stage}" for stage in ("screen", "generate", "encode", "publish")}

    def shown() -> set[str]:
        tasks = json.loads(get(flower + "/api/tasks")).values()
        return {task["name"] for task in tasks if task["state"] == "SUCCESS"}

    wait_for(lambda: shown() >= stages, "the four tasks of a job without enhancement are shown as succeeded")

    # Then the tasks carry the job's id and not its prompt
    listing = get(flower + "/api/tasks").decode()
    assert job in listing
    assert PROMPT not in listing
    assert len(json.loads(get(flower + "/api/workers"))) == 3
