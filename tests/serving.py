"""`vgen serve` as a process of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.cli_process import started, until


@dataclass(frozen=True)
class Served:
    """A server at work, and a client whose paths begin at its root."""

    process: subprocess.Popen[str]
    client: httpx.Client

    def finished(self, video_id: str) -> dict[str, Any]:
        """The video once it has ended."""
        video: dict[str, Any] = {}

        def ended() -> bool:
            video.update(self.client.get(f"/v1/videos/{video_id}").json())
            return video["status"] not in ("queued", "in_progress")

        until(ended)
        return video


@contextmanager
def serving(home: Path, *options: object) -> Iterator[Served]:
    """A server of a home, on a free port of this host."""
    with started("--home", home, "serve", "--port", 0, *options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if address := re.search(r"http://\S+", line):
                with httpx.Client(base_url=address[0], timeout=60) as client:
                    yield Served(process, client)
                return
        raise AssertionError(f"it ended with {process.wait()} before it served")
