"""Flower ends when it is asked to, also while it looks for a broker that is away."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.cluster import VGEN, wait_for
from tests.servers import answers, free_port


def test_flower_ends_by_sigterm_with_the_broker_away(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "VGEN_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "VGEN_FLOWER_BASIC_AUTH": "watcher:a-long-password",
        "VGEN_HOME": str(tmp_path / "home"),
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*VGEN, "flower", "--port", str(port)], env=environment, cwd=tmp_path, **quiet) as flower:
        try:
            wait_for(lambda: answers(port), "Flower listens")
            flower.send_signal(signal.SIGTERM)
            assert flower.wait(60) == 0
        finally:
            flower.kill()
