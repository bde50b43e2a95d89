"""The session of segments that a project has: a GPU comes with it, and a project that begins anew has another."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from pipeline.encoding.live import Mode
from server.auth import Caller
from server.dreamverse import from_server as m
from server.dreamverse.project import Project
from server.dreamverse.shared import STOPPED, Shared
from server.stream.init_image import InitImage
from server.stream.session import SessionState
from server.stream.source import Assigned, Opening, SegmentSource, Waiting, no_gpu_in_time

_SEGMENTS_OF_SOURCE = 10_000
"""The most segments of one session; lost ones count here, and not towards the most of a project."""


class GpuSession:
    """The one session that a client has at a time, one after the other."""

    def __init__(
        self,
        shared: Shared,
        caller: Caller,
        *,
        on_source: Callable[[SegmentSource | None], None],
        on_key_lost: Callable[[], None],
    ) -> None:
        self._shared = shared
        self._caller = caller
        self._on_source = on_source
        """Told which source is open."""
        self._on_key_lost = on_key_lost
        self.source: SegmentSource | None = None
        self.next_segment = 0
        """The number of the next segment in the session."""
        self._image: InitImage | None = None
        self._gpu_told = False
        self.assigned_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        """When the client had its first GPU."""

    def is_unused_for(self, project: Project) -> bool:
        """Return whether no segment was asked of it, and it begins from the project's image."""
        return self.source is not None and not self.next_segment and self._image is project.image

    @property
    def is_used_up(self) -> bool:
        return self.next_segment >= _SEGMENTS_OF_SOURCE

    def _hold(self, source: SegmentSource | None) -> None:
        self.source = source
        self._on_source(source)

    async def open(self, project: Project) -> None:
        """Begin a session of segments, which waits for a GPU. Raises SourceError: none was free for too long."""
        config = self._shared.service.config
        source = self._shared.service.make_source()
        self._hold(source)
        self.next_segment, self._image = 0, project.image
        opening = Opening(
            session_id=secrets.token_hex(16),
            owner=self._caller.owner,
            key_id=self._caller.key_id,
            preset=self._shared.service.preset,
            image=project.image,
            mode=Mode.AV_FMP4,
            silent_audio=True,  # the page takes no stream without sound
            segment_cap=_SEGMENTS_OF_SOURCE,
            timeout_s=config.session_timeout_seconds,
            on_key_lost=self._on_key_lost,
        )
        waiting: Waiting | None = None
        try:
            async with asyncio.timeout(opening.timeout_s):
                async for place in source.open(opening):
                    waiting = place if isinstance(place, Waiting) else None
                    await self._placed(place)
        except TimeoutError:
            raise no_gpu_in_time(opening.timeout_s, waiting) from None

    async def _placed(self, place: Waiting | Assigned) -> None:
        session = self._shared.session
        if isinstance(place, Waiting):
            if session.state is SessionState.INITIALIZING:
                session.transition(SessionState.QUEUED)
            await self._shared.put(
                m.QueueStatus(position=place.position, total_gpus=self._shared.total_gpus, available_gpus=0)
            )
            return
        session.gpu_id = place.gpu_id
        if self._gpu_told:
            return
        self._gpu_told = True
        session.transition(SessionState.GPU_BINDING)
        timeout_s = self._shared.service.config.session_timeout_seconds
        await self._shared.put(m.GpuAssigned(gpu_id=place.gpu_id, session_timeout=timeout_s))
        session.transition(SessionState.ACTIVE)
        self.assigned_at.set_result(time.monotonic())

    async def close(self) -> None:
        """End the session, and give its GPU to others."""
        source = self.source
        self._hold(None)
        self._shared.session.gpu_id = None
        if source is not None:
            closing = source.close(client_left=False, state=SessionState.COMPLETE, reason=STOPPED)
            await asyncio.shield(asyncio.ensure_future(closing))  # a session that is left open keeps its GPU
