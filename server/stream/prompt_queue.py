"""The prompts of a session: those that were sent, those that a loop or a language model gives, made ready one ahead."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel

from server.stream import endings
from server.stream import messages as m
from server.stream.config import RequestPart
from server.stream.prompts import PromptDesk
from server.stream.session import Session
from server.stream.source import SegmentRequest, SourceError
from server.stream.wire import MAX_PROMPT_CHARACTERS, InvalidMessageError

MAX_WAITING = 16
Put = Callable[[BaseModel], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ready:
    """A request whose prompt is enhanced and screened; when it was asked for, on the monotonic clock."""

    request: SegmentRequest
    asked_at: float


@dataclass(frozen=True, slots=True)
class _Wanted:
    message: m.SegmentPromptSource
    asked_at: float
    from_loop: bool = False


class PromptQueue:
    """Hands out one request after the other, at most one before it is asked for."""

    def __init__(self, session: Session, desk: PromptDesk, defaults: RequestPart, put: Put) -> None:
        self._session = session
        self._desk = desk
        self._defaults = defaults
        self._put = put
        self._sent: deque[_Wanted] = deque()
        self._changed = asyncio.Event()
        self._ready: asyncio.Queue[Ready] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)
        self._seed_place = 0
        self._last_prompt: str | None = None
        self._held_until_asked = False
        """True after a prompt that nobody typed failed: nothing is written until the client says something."""
        self.busy = False
        """True while a prompt is written or screened."""

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._sent) + self._ready.qsize()

    def add(self, message: m.SegmentPromptSource) -> None:
        """Take a prompt of the client's. Raises InvalidMessageError: too many wait."""
        if len(self._sent) >= MAX_WAITING:
            text = f"prompt: {MAX_WAITING} prompts wait, which is the most; send it later"
            raise InvalidMessageError(text, prompt=message.prompt)
        self._sent.append(_Wanted(message, time.monotonic()))

    def restart_seeds(self) -> None:
        self._seed_place = 0

    def changed(self) -> None:
        """Look again what comes next: the client has said something."""
        self._held_until_asked = False
        self._changed.set()

    async def get(self) -> Ready:
        ready = await self._ready.get()
        self._room.release()
        return ready

    async def run(self, first: int, cap: int, announce: Callable[[SegmentRequest], Awaitable[None]]) -> None:
        """Make the segments' requests ready, from ``first`` to before ``cap``; returns when cancelled."""
        for index in range(first, cap):
            await self._room.acquire()
            ready: Ready | None = None
            while ready is None:
                wanted = await self._next()
                self.busy = True
                try:
                    ready = await self._prepared(wanted, index)
                    if ready is not None:
                        await announce(ready.request)
                except SourceError as error:
                    if error.fatal:
                        raise
                    await self._tell(error, wanted)
                    ready = None
                finally:
                    self.busy = False
            self._last_prompt = ready.request.prompt
            self._ready.put_nowait(ready)
        await asyncio.Event().wait()  # the session ends when the last one is made

    async def _next(self) -> _Wanted:
        while True:
            self._changed.clear()
            if (wanted := self._take() or await self._extended()) is not None:
                return wanted
            await self._changed.wait()

    def _take(self) -> _Wanted | None:
        session = self._session
        if session.generation_paused:
            return None
        if self._sent:
            return self._sent.popleft()
        if session.loop_generation_enabled and session.curated_prompts and not self._held_until_asked:
            prompt = session.curated_prompts[self._seed_place % len(session.curated_prompts)]
            self._seed_place += 1
            return _Wanted(_message(prompt, "curated"), time.monotonic(), from_loop=True)
        return None

    async def _extended(self) -> _Wanted | None:
        session, prompt = self._session, self._last_prompt
        wished = session.auto_extension_enabled and not session.generation_paused and not self._held_until_asked
        if prompt is None or not wished:
            return None
        self.busy = True
        try:
            text = await self._desk.extend(prompt)
        except SourceError as error:
            self._held_until_asked = True
            await self._tell(error)
            return None
        finally:
            self.busy = False
        if self._sent or session.generation_paused or not session.auto_extension_enabled:
            self._changed.set()  # meanwhile the client has said what it wants
            return None
        return _Wanted(_message(text[:MAX_PROMPT_CHARACTERS], "auto_extension"), time.monotonic())

    async def _prepared(self, wanted: _Wanted, index: int) -> Ready | None:
        """Return the request; None where it is turned down, which the client is told."""
        message = wanted.message
        prompt, source = await self._enhanced(message)
        try:
            for text in dict.fromkeys((message.prompt, prompt)):
                await self._desk.screen(text)
        except SourceError as error:
            await self._tell(error, wanted)
            if wanted.from_loop:
                others = [seed for seed in self._session.curated_prompts if seed != message.prompt]
                self._session.curated_prompts = others
            elif source == "auto_extension":
                self._held_until_asked = True
            return None
        request = SegmentRequest(
            index=index,
            prompt=prompt,
            source=source,
            negative_prompt=message.negative_prompt or self._defaults.negative_prompt,
            seed=message.seed,
            num_inference_steps=message.num_inference_steps,
            guidance_scale=message.guidance_scale,
        )
        return Ready(request, wanted.asked_at)

    async def _enhanced(self, message: m.SegmentPromptSource) -> tuple[str, m.PromptSource]:
        if not self._session.enhancement_enabled or message.source not in ("user", "curated"):
            return message.prompt, message.source
        try:
            return (await self._desk.enhance(message.prompt))[:MAX_PROMPT_CHARACTERS], "enhanced"
        except SourceError as error:
            text = f"{error.message}; the prompt is used as it was written"
            await self._put(endings.error_message(error.code, text, retryable=error.retryable))
            return message.prompt, message.source

    async def _tell(self, error: SourceError, refused: _Wanted | None = None) -> None:
        prompt = None if refused is None else refused.message.prompt
        await self._put(endings.error_message(error.code, error.message, retryable=error.retryable, prompt=prompt))


def _message(prompt: str, source: m.PromptSource) -> m.SegmentPromptSource:
    return m.SegmentPromptSource(type="segment_prompt_source", prompt=prompt, source=source)
