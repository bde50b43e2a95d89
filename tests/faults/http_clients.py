"""Servers that are killed, and clients that ask them for videos, poll and delete, as SDKs do: whoever gets no answer
asks again."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.cluster import VGEN
from tests.die_with_parent import dying_with_us

BODY = {"model": "idle", "size": "32x32", "num_frames": 5}
_TRIED_AGAIN = (500, 502, 503, 504)


@dataclass
class Server:
    """One ``vgen serve`` on a port of its own, which changes with each start."""

    folder: Path
    env: Mapping[str, str]
    config: str = ""
    """What the file of ``--config`` says."""
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0

    @property
    def url(self) -> str:
        """Where it answers; empty while it has not begun."""
        found = re.findall(r"http://\S+", self.log)
        return found[-1] if found else ""

    @property
    def log(self) -> str:
        path = self.folder / "serve.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "serve.yaml"
        config.write_text(self.config)
        options = ["--config", str(config)] if self.config else []
        with (self.folder / "serve.log").open("wb") as log:
            self.process = subprocess.Popen(
                dying_with_us([*VGEN, "serve", "--port", "0", *options], signal.SIGTERM),
                env={**self.env, "VGEN_HOME": str(self.folder / "home")},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def kill_and_start(self) -> None:
        self.kills += 1
        self.kill()
        self.start()


@dataclass
class Asked:
    """What a client asked for, and what it was answered."""

    answered: dict[str, str] = field(default_factory=dict)
    """The id of each video, by its prompt, which no other one has."""
    deleted: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


class Client(threading.Thread):
    """Asks for videos one after the other, of whichever server there is.

    Args:
        urls: where servers answer now; none while all are being started.
        poll: asks for a video until it has ended, or is deleted; else it is only submitted.
        after_delete: what is wrong once a DELETE was answered.
    """

    def __init__(
        self,
        name: str,
        urls: Callable[[], Sequence[str]],
        *,
        poll: bool = False,
        steps: tuple[int, int] = (4, 4),
        after_delete: Callable[[str], str | None] = lambda video_id: None,
    ) -> None:
        super().__init__(name=name)
        self.asked = Asked()
        self.over = threading.Event()
        self._urls, self._poll, self._steps, self._after_delete = urls, poll, steps, after_delete
        self._dice = Random(name)
        self._client = httpx.Client(timeout=20, verify=False)

    def run(self) -> None:
        with self._client:
            number = 0
            while not self.over.is_set():
                number += 1
                self._one(f"{self.name} {number}", by_key=number % 4 < 2, delete=number % 2 == 0)

    def _one(self, prompt: str, *, by_key: bool, delete: bool) -> None:
        body = {"prompt": prompt, "num_inference_steps": self._dice.randint(*self._steps), **BODY}
        headers = {"idempotency-key": prompt} if by_key else None
        video = self._until_answered("POST", "/v1/videos", body, headers)
        if video is None:
            return
        video_id = self.asked.answered[prompt] = str(video["id"])
        if self._poll:
            self._follow(video_id, most=self._dice.randint(1, 8) if delete else 40)
        if delete and self._until_answered("DELETE", f"/v1/videos/{video_id}", None, {}) is not None:
            self.asked.deleted.add(video_id)
            if (wrong := self._after_delete(video_id)) is not None:
                self.asked.problems.append(wrong)

    def _follow(self, video_id: str, most: int) -> None:
        for _ in range(most):
            if self.over.is_set():
                return
            video = self._until_answered("GET", f"/v1/videos/{video_id}", None, {})
            if video is None or video["status"] in ("completed", "failed"):
                return
            self.over.wait(0.3)

    def _until_answered(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None
    ) -> Mapping[str, Any] | None:
        """The answer, from whichever server gives one; None: there is none that can be used, which is a problem."""
        tries = 0
        while True:
            urls = [url for url in self._urls() if url]
            own = {"x-stainless-retry-count": str(tries)} if headers is None else headers
            try:
                if not urls:
                    raise httpx.ConnectError("no server has begun")
                answer = self._client.request(method, self._dice.choice(urls) + path, json=body, headers=own)
            except httpx.HTTPError:
                tries += 1
                time.sleep(0.05)
                continue
            gone = method == "DELETE" and answer.status_code == 404 and tries > 0
            if answer.status_code == 200 or gone:
                document: Mapping[str, Any] = answer.json()
                return document
            if answer.status_code not in _TRIED_AGAIN:
                self.asked.problems.append(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
                return None
            tries += 1
            time.sleep(0.2)


def together(clients: Sequence[Client]) -> Asked:
    """End the clients, and return what all of them asked for."""
    for client in clients:
        client.over.set()
    for client in clients:
        client.join(120)
    asked = [client.asked for client in clients]
    problems = [f"{client.name} did not end" for client in clients if client.is_alive()]
    return Asked(
        {prompt: video for one in asked for prompt, video in one.answered.items()},
        {video for one in asked for video in one.deleted},
        [*problems, *(problem for one in asked for problem in one.problems)],
    )
