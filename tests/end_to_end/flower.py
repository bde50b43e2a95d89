"""Flower beside a cluster, behind a password."""

from __future__ import annotations

import base64
import contextlib
import signal
import subprocess
import urllib.request
from collections.abc import Iterator

from tests.cluster import VGEN, Cluster, wait_for
from tests.die_with_parent import dying_with_us
from tests.servers import answers, free_port

LOGIN = "watcher:a-long-password"


@contextlib.contextmanager
def running_flower(cluster: Cluster) -> Iterator[str]:
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
    """Raises urllib.error.HTTPError where the answer is a refusal."""
    request = urllib.request.Request(url)
    if login is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with urllib.request.urlopen(request, timeout=20) as response:
        return bytes(response.read())
