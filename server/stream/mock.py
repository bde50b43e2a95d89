"""Segments without a model, for people who build front ends: moving gradients, in timed steps, and no torch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from pipeline.encoding.live import Chunk, ChunkKind, LiveEncoder, Track, encoder_for
from pipeline.errors import VgenError
from pipeline.inputs.images import fitted, read_image
from server.stream.config import RequestPart, StreamingConfig
from server.stream.session import SessionState
from server.stream.source import (
    Assigned,
    ContinuationState,
    Done,
    Media,
    MediaBegin,
    MediaEnd,
    Opening,
    SegmentEvent,
    SegmentRequest,
    SourceError,
    Started,
    Step,
    Waiting,
)

PRESET = "mock"
STATE_KIND = "vgen.mock.v1"
WIDTH = HEIGHT = 256
NUM_FRAMES, FPS, STEPS, SEED = 24, 24.0, 4, 1024
DEFAULT_GPUS = 2
_PERIOD = 48
"""Frames in which a gradient comes round."""


class MockGpus:
    """So many GPUs that do not exist, and the sessions that wait for one, first come, first served."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))
        self._waiting: list[object] = []
        self._changed = asyncio.Condition()

    @property
    def available(self) -> int:
        return len(self._free)

    @property
    def queue_size(self) -> int:
        return len(self._waiting)

    async def acquire(self) -> AsyncIterator[Waiting | int]:
        """Yield the place in the queue whenever it changes, then the GPU."""
        ticket = object()
        self._waiting.append(ticket)
        gpu: int | None = None
        try:
            told = None
            while True:
                async with self._changed:
                    place = self._waiting.index(ticket)
                    if self._free and place == 0:
                        gpu = self._free.pop(0)
                        self._waiting.remove(ticket)
                        self._changed.notify_all()
                        break
                    now = Waiting(place + 1, len(self._waiting))
                    if now == told:
                        await self._changed.wait()
                        continue
                told = now
                yield now
            yield gpu
        except (asyncio.CancelledError, GeneratorExit):
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            raise

    async def release(self, gpu: int) -> None:
        async with self._changed:
            self._free.append(gpu)
            self._free.sort()
            self._changed.notify_all()

    async def wake(self) -> None:
        """Have those who wait look at their place again: one of them left."""
        async with self._changed:
            self._changed.notify_all()


class MockSource:
    """The segments of one session: each goes on where the one before ended."""

    def __init__(self, gpus: MockGpus, config: StreamingConfig, request: RequestPart) -> None:
        sampling = request.sampling
        self._gpus = gpus
        self._step_s = config.mock.step_ms / 1000
        self._steps = sampling.num_inference_steps or STEPS
        self._seed = SEED if sampling.seed is None else sampling.seed
        self._track = Track(
            sampling.width or WIDTH, sampling.height or HEIGHT, sampling.fps or FPS, sampling.num_frames or NUM_FRAMES
        )
        self._gpu: int | None = None
        self._opening: Opening | None = None
        self._state: ContinuationState | None = None
        self._first = 0
        """The number of the next segment's first frame, from the first session on."""

    async def open(self, opening: Opening) -> AsyncIterator[Waiting | Assigned]:
        if opening.preset not in (None, PRESET):
            text = f"preset: {opening.preset!r} is not served here: use {PRESET!r}"
            raise SourceError("preset_mismatch", text, retryable=False)
        if opening.resume:
            text = "session_id: a mock keeps no session; begin anew with its continuation_state"
            raise SourceError("session_rejected", text, retryable=False)
        self._opening, self._state = opening, opening.state
        if opening.state is not None:
            self._first = _first_frame(opening.state)
        try:
            async for place in self._gpus.acquire():
                if isinstance(place, Waiting):
                    yield place
                else:
                    self._gpu = place
        finally:
            if self._gpu is None:
                await self._gpus.wake()
        assert self._gpu is not None
        track = self._track
        name = f"mock{self._gpu}"
        yield Assigned(self._gpu, track.width, track.height, track.fps, track.num_frames, PRESET, name)

    async def start_segment(self, request: SegmentRequest) -> AsyncIterator[SegmentEvent]:
        assert self._opening is not None
        begun = time.monotonic()
        steps = request.num_inference_steps or self._steps
        yield Started(steps, request.prompt)
        for step in range(1, steps + 1):
            await asyncio.sleep(self._step_s)
            yield Step(step, steps)
        async for event in self._encoded(request):
            yield event
        self._first += self._track.num_frames
        seed = self._seed if request.seed is None else request.seed
        payload = {"schema": 1, "segment_index": request.index, "frame": self._first, "seed": seed}
        self._state = ContinuationState(STATE_KIND, payload)
        yield Done((time.monotonic() - begun) * 1000, self._state)

    async def announce(self, request: SegmentRequest) -> None:
        """It makes nothing ahead."""

    async def snapshot(self) -> ContinuationState | None:
        return self._state

    async def close(self, *, client_left: bool, state: SessionState, reason: str, kept_s: float | None = None) -> None:
        if self._gpu is not None:
            gpu, self._gpu = self._gpu, None
            await self._gpus.release(gpu)

    async def _encoded(self, request: SegmentRequest) -> AsyncIterator[SegmentEvent]:
        assert self._opening is not None
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        stream_id = secrets.token_hex(16)

        def put(chunk: Chunk | None) -> None:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        try:
            encoder = await asyncio.to_thread(
                encoder_for, self._opening.mode, self._track, on_chunk=put, silent=self._opening.silent_audio
            )
        except VgenError as error:
            raise SourceError("worker_failed", str(error)) from error
        work = asyncio.create_task(asyncio.to_thread(self._write, encoder, request))
        work.add_done_callback(lambda _: put(None))
        try:
            while (chunk := await chunks.get()) is not None:
                if chunk.kind is ChunkKind.INIT:
                    yield MediaBegin(stream_id, chunk.mime, self._opening.mode, chunk.data)
                else:
                    yield Media(chunk.index, chunk.data)
            try:
                count = await work
            except VgenError as error:
                raise SourceError("worker_failed", str(error)) from error
        finally:
            if not work.done():
                await asyncio.to_thread(encoder.abort)
                with contextlib.suppress(VgenError):
                    await work
        yield MediaEnd(count, self._track.seconds * 1000)

    def _write(self, encoder: LiveEncoder, request: SegmentRequest) -> int:
        try:
            for frame in self._frames(request):
                encoder.write(frame)
            return encoder.finish()
        finally:
            encoder.abort()

    def _frames(self, request: SegmentRequest) -> Any:
        """Yield each frame's bytes: two gradients that move, in colours that prompt and seed choose."""
        width, height = self._track.width, self._track.height
        seed = self._seed if request.seed is None else request.seed
        hues = hashlib.sha256(f"{seed}:{request.prompt}".encode()).digest()
        across = np.linspace(0, 1, width, dtype=np.float32)[None, :]
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        picture = self._picture()
        for number in range(self._first, self._first + self._track.num_frames):
            phase = number / _PERIOD
            frame = np.empty((height, width, 3), np.uint8)
            for channel in range(3):
                wave = (across + down * (hues[channel] / 255) + phase * (1 + channel / 3)) % 1
                level = np.abs(wave * 2 - 1) * (128 + hues[3 + channel] / 2)
                frame[..., channel] = level if picture is None else (level + picture[..., channel]) / 2
            yield frame.tobytes()

    def _picture(self) -> Any:
        assert self._opening is not None
        image = self._opening.image
        if image is None:
            return None
        size = self._track.width, self._track.height
        return np.asarray(fitted(read_image(image.data, image.display_name).image, size), dtype=np.float32)


def _first_frame(state: ContinuationState) -> int:
    if state.kind != STATE_KIND:
        text = f"continuation_state.kind: {state.kind!r:.60} is not {STATE_KIND!r}, the one that is read here"
        raise SourceError("preset_mismatch", text, retryable=False)
    frame = state.payload.get("frame")
    if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < 2**40:
        text = f"continuation_state.payload.frame: {frame!r:.60} is not a number of frames"
        raise SourceError("invalid_message", text, retryable=False)
    return frame
