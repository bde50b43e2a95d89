"""Flower with its broker away: it ends when it is asked to, and leads from a job's id to the job's page."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx

from tests.cluster import VGEN, wait_for
from tests.servers import answers, free_port


def test_flower_leads_to_jobs_and_ends_by_sigterm_with_the_broker_away(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "VGEN_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "VGEN_FLOWER_BASIC_AUTH": "watcher:a-long-password",
        "VGEN_HOME": str(tmp_path / "home"),
        "VGEN_SERVE_PUBLIC_URL": "https://clips.example.org/vgen/",
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*VGEN, "flower", "--port", str(port)], env=environment, cwd=tmp_path, **quiet) as flower:
        try:
            wait_for(lambda: answers(port), "Flower listens")
            url = f"http://127.0.0.1:{port}/task/1m8mk9wrh50ea-000001"
            led = httpx.get(url, auth=("watcher", "a-long-password"))
            assert (led.status_code, led.headers["location"]) == (
                302,
                "https://clips.example.org/vgen/jobs/1m8mk9wrh50ea-000001",
            )
            task = httpx.get(f"{url}.1.0.generate.1", auth=("watcher", "a-long-password"))
            assert task.status_code == 404  # Flower's own page, which knows no such task yet
            flower.send_signal(signal.SIGTERM)
            assert flower.wait(60) == 0
        finally:
            flower.kill()
