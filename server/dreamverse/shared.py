"""What the tasks of one client share: its project, what wakes them, and the way to the client."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pipeline.redaction import redact
from server.dreamverse import from_server as m
from server.dreamverse.project import Project
from server.stream.outbox import Outbox
from server.stream.service import StreamService
from server.stream.session import Session

STOPPED = "stop_requested"
"""Why a session ends that its client wants no more."""


class Shared:
    """The state of one client. Everything happens in one event loop."""

    def __init__(self, service: StreamService, session: Session, outbox: Outbox) -> None:
        self.service = service
        self.session = session
        self._outbox = outbox
        self.project: Project | None = None
        self.temperature: float | None = None
        """How freely prompts are rewritten; None: as the settings say."""
        self.making = False
        """Whether a segment is being made."""
        self.maker_wakes, self.writer_wakes = asyncio.Event(), asyncio.Event()
        self.project_ends = asyncio.Event()
        """Set while the project is to end, and has not."""

    def notify(self) -> None:
        """Have the tasks that make segments and enhance prompts look again at what there is to do."""
        self.maker_wakes.set()
        self.writer_wakes.set()

    async def put(self, message: Any) -> None:
        """Have a message, or bytes, sent to the client."""
        await self._outbox.put(message)

    async def error(self, text: str, code: str | None = None) -> None:
        await self.put(m.ErrorMessage(message=redact(text), error_code=code))

    @property
    def total_gpus(self) -> int:
        gpus = self.service.gpus
        return (self.service.config.pool.num_workers or 1) if gpus is None else gpus.count

    @property
    def writer(self) -> str:
        """The language model that writes prompts, as the client is told."""
        prompts = self.service.config.prompt
        return prompts.model if prompts.enabled else "as configured"

    def cap_of(self, project: Project) -> int:
        """The most segments of a project; 0: as many as are asked for, one by one."""
        return 0 if project.single_clip else self.service.config.generation_segment_cap


def since(begun: float) -> float:
    """Return the milliseconds since a moment of the monotonic clock."""
    return round((time.monotonic() - begun) * 1000, 2)
