"""`vgen router-serve` as a process of its own, before replicas of the tests."""

from __future__ import annotations

import re
import signal
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
    file: Path
    """Its configuration."""

    def configure(self, urls: Sequence[str], **config: Any) -> None:
        """Write another configuration, and have the router read it."""
        write_config(self.file, urls, **config)
        self.process.send_signal(signal.SIGHUP)

    def replica(self, name: str) -> dict[str, Any]:
        """What the router's status says of a replica."""
        replicas = self.client.get("/status").json()["replicas"]
        shown: dict[str, Any] = next(each for each in replicas if each["name"] == name)
        return shown

    def until_status(self, name: str, status: str) -> None:
        until(
            lambda: any(
                (each["name"], each["status"]) == (name, status)
                for each in self.client.get("/status").json()["replicas"]
            )
        )


def write_config(file: Path, urls: Sequence[str], **config: Any) -> None:
    health = {"interval_seconds": 0.2, "timeout_seconds": 2, **config.pop("health_check", {})}
    names = config.pop("names", "abcdefgh")
    port = config.pop("port", 0)
    replicas = [{"url": url, "name": name} for url, name in zip(urls, names, strict=False)]
    data = {
        "router": {
            "host": config.pop("host", "127.0.0.1"),
            "port": port,
            "replicas": replicas,
            "health_check": health,
            **config,
        }
    }
    file.write_text(yaml.safe_dump(data), "utf-8")


@contextmanager
def routing(folder: Path, urls: Sequence[str], **config: Any) -> Iterator[Routing]:
    """A router before these replicas, whose health it checks five times a second."""
    file = folder / "router.yaml"
    write_config(file, urls, **config)
    with started("--home", folder, "router-serve", "--config", file) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if address := re.search(r"http://(\S+)", line):
                with httpx.Client(base_url=address[0], timeout=60) as client:
                    yield Routing(process, client, f"ws://{address[1]}", file)
                return
        raise AssertionError(f"it ended with {process.wait()} before it routed")
