"""`vgen router-serve` as a process of its own, before replicas of the tests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.cli_process import started, until


@dataclass(frozen=True)
class Routing:
    """A router at work, a client whose paths begin at its root, and the address of its WebSockets."""

    process: subprocess.Popen[str]
    client: httpx.Client
    ws: str

    def replica(self, name: str) -> dict[str, Any]:
        """What the router's status says of a replica."""
        replicas = self.client.get("/status").json()["replicas"]
        shown: dict[str, Any] = next(each for each in replicas if each["name"] == name)
        return shown

    def until_status(self, name: str, status: str) -> None:
        until(lambda: self.replica(name)["status"] == status)


@contextmanager
def routing(folder: Path, urls: Sequence[str], **config: Any) -> Iterator[Routing]:
    """A router before these replicas, whose health it checks five times a second."""
    health = {"interval_seconds": 0.2, "timeout_seconds": 2, **config.pop("health_check", {})}
    names = config.pop("names", "abcdefgh")
    replicas = [{"url": url, "name": name} for url, name in zip(urls, names, strict=False)]
    data = {"router": {"host": "127.0.0.1", "port": 0, "replicas": replicas, "health_check": health, **config}}
    file = folder / "router.yaml"
    file.write_text(yaml.safe_dump(data), "utf-8")
    with started("--home", folder, "router-serve", "--config", file) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if address := re.search(r"http://(\S+)", line):
                with httpx.Client(base_url=address[0], timeout=60) as client:
                    yield Routing(process, client, f"ws://{address[1]}")
                return
        raise AssertionError(f"it ended with {process.wait()} before it routed")
