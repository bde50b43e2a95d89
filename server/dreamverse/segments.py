"""The segments of a client's projects: which prompt is next, when a project begins anew, what the client is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

from pipeline.redaction import redact
from server.dreamverse import from_server as m
from server.dreamverse.gpu_session import GpuSession
from server.dreamverse.project import Chosen, Project
from server.dreamverse.seed_rewriting import SeedRewriting
from server.dreamverse.shared import Shared, since
from server.stream import wire
from server.stream.messages import PromptSource
from server.stream.source import (
    Done,
    Media,
    MediaBegin,
    MediaEnd,
    Notice,
    SegmentEvent,
    SegmentRequest,
    SourceError,
    Started,
)

logger = logging.getLogger(__name__)
_SOURCES: dict[m.Source, PromptSource] = {
    "curated": "curated",
    "user_raw": "user",
    "user_enhanced": "enhanced",
    "auto_llm": "auto_extension",
}


class SegmentMaking:
    """Has the segments of one project after the other made."""

    def __init__(self, shared: Shared, gpu: GpuSession, rewriting: SeedRewriting) -> None:
        self._shared = shared
        self._gpu = gpu
        self._rewriting = rewriting

    async def run(self) -> None:
        """Have the segments of one project after the other made, until cancelled. Raises SourceError."""
        assert self._shared.project is not None
        await self._gpu.open(self._shared.project)
        await self._begin_first(self._shared.project)
        while True:
            self._shared.maker_wakes.clear()
            project = self._shared.project
            if self._shared.project_ends.is_set():
                await self._go_idle()
            elif project is None:
                await self._shared.maker_wakes.wait()
            elif project.restart is not None:
                await self._restart(project)
            elif (chosen := await self._choose(project)) is not None:
                if self._gpu.is_used_up:
                    await self._gpu.close()
                    await self._gpu.open(project)
                await self._make_one(project, chosen)
            elif project.restart is None and not self._shared.project_ends.is_set():
                await self._shared.maker_wakes.wait()

    async def _begin_first(self, project: Project) -> None:
        await self._shared.put(m.LoopGenerationUpdated(enabled=project.loop))
        await self._shared.put(m.GenerationPausedUpdated(paused=project.paused))
        if project.waits_for_rewrite:
            if not self._rewriting.was_asked:  # the client may have asked for one while it waited for a GPU
                self._rewriting.start(project, project.rollout_prompt, [])
            return
        await self._start_stream(project)
        said = m.SeedPromptsUpdated(
            prompts=project.seeds,
            preset_id=project.preset_id,
            preset_label=project.preset_label,
            reason="init",
            seed_prompt_count=len(project.seeds),
        )
        await self._shared.put(said)

    async def _start_stream(self, project: Project) -> None:
        project.started = True
        await self._shared.put(
            m.StreamStart(
                total_segments=len(project.seeds),
                preset_id=project.preset_id,
                loop_generation_enabled=project.loop,
                loop_iteration=project.iteration,
                generation_segment_cap=self._shared.cap_of(project),
            )
        )

    async def _restart(self, project: Project) -> None:
        """Begin the project anew, in a session of its own."""
        reason = project.restart or ""
        if not self._gpu.is_unused_for(project):
            await self._gpu.close()
            await self._gpu.open(project)
        raw, ready = project.begin_anew()
        await self._start_stream(project)
        counts: dict[str, Any] = {
            "loop_iteration": project.iteration,
            "seed_prompt_count": len(project.seeds),
            "dropped_user_raw_queue": raw,
            "dropped_user_ready_queue": ready,
        }
        if reason == "loop_restart":
            await self._shared.put(m.LoopRestarted(**counts))
        else:
            await self._shared.put(m.SeedPromptsResetApplied(reason=reason, **counts))
        self._shared.notify()

    async def _go_idle(self) -> None:
        """End the project, and give its GPU to others."""
        project, self._shared.project = self._shared.project, None
        self._shared.project_ends.clear()
        await self._gpu.close()
        if project is None:
            return
        if project.started:
            await self._shared.put(m.StreamComplete())
        raw, ready = len(project.received), len(project.ready)
        await self._shared.put(m.ProjectIdle(dropped_user_raw_queue=raw, dropped_user_ready_queue=ready))

    async def _choose(self, project: Project) -> Chosen | None:
        """Return the next segment's prompt; None where nothing is to be made now, which the client is told."""
        cap = self._shared.cap_of(project)
        if cap and project.generated >= cap and not project.waits_for_rewrite:
            project.loop, project.waits_for_rewrite, project.started = False, True, False
            await self._shared.put(m.GenerationCapReached(segment_cap=cap, generated_segments=project.generated))
            await self._shared.put(m.StreamComplete())
        if project.waits_for_rewrite or project.holds_for_rewrite or project.paused:
            return None
        chosen = project.take()
        if chosen is None and project.loop and project.seeds:
            if project.made_in_round:
                project.restart = "loop_restart"
                return None
            project.loop = False  # the next round would be as empty, and the one after it
            await self._shared.put(m.LoopGenerationUpdated(enabled=False))
        if chosen is None and project.auto_extension:
            chosen = await self._extended(project)
            if chosen is None and project.failed_extension != project.segment + 1:
                return None  # meanwhile the client has said what it wants
        index = project.segment + 1
        if chosen is None:
            if not project.single_clip and not project.told_blocked:
                project.told_blocked = True
                await self._shared.put(m.PromptSourcesBlocked(segment_idx=index))
        elif project.told_blocked:
            project.told_blocked = False
            said = m.PromptSourcesResumed(segment_idx=index, source=chosen.source, prompt_id=chosen.prompt_id)
            await self._shared.put(said)
        return chosen

    async def _extended(self, project: Project) -> Chosen | None:
        """Return a prompt that goes on from the last; None: it failed, is turned down, or is not wanted any more."""
        begun, index = time.monotonic(), project.segment + 1
        if project.last_prompt is None or project.failed_extension == index:
            project.failed_extension = index
            return None
        try:
            text = (await self._shared.service.prompts.extend(project.last_prompt)).strip()
            await self._shared.service.prompts.screen(text)
        except SourceError as error:
            project.failed_extension = index
            text = redact(error.message)
            await self._shared.put(m.AutoPromptFailed(segment_idx=index, latency_ms=since(begun), error=text))
            return None
        wanted = project.auto_extension and not project.paused and project.restart is None and not project.ready
        return Chosen(text, "auto_llm") if wanted and not self._shared.project_ends.is_set() else None

    async def _make_one(self, project: Project, chosen: Chosen) -> None:
        """Have one segment made; it is left where its project ends. Raises SourceError: the session cannot go on."""
        project.segment += 1
        self._shared.making = True
        making = asyncio.create_task(self._segment(project, chosen))
        ending = asyncio.create_task(self._shared.project_ends.wait())
        try:
            await asyncio.wait({making, ending}, return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                making.result()
        except SourceError as error:
            if error.fatal:
                raise
            project.segment -= 1
            await self._shared.error(error.message, error.code)
        finally:
            self._shared.making = False
            for task in (making, ending):
                task.cancel()
            await asyncio.gather(making, ending, return_exceptions=True)

    async def _segment(self, project: Project, chosen: Chosen) -> None:
        """Have one segment made, and tell all of it. Raises SourceError."""
        source = self._gpu.source
        assert source is not None
        index = project.segment
        request = SegmentRequest(
            index=self._gpu.next_segment,
            prompt=chosen.prompt,
            source=_SOURCES[chosen.source],
            negative_prompt=self._shared.service.request.negative_prompt,
        )
        await source.announce(request)
        self._gpu.next_segment += 1  # also of one that is lost: its number is taken
        events = cast(AsyncGenerator[SegmentEvent, None], source.start_segment(request))
        done: Done | None = None
        stream_id = ""
        async with contextlib.aclosing(events):
            async for event in events:
                match event:
                    case Started(_, prompt):
                        await self._tell_start(project, chosen, prompt)
                    case MediaBegin(stream_id, mime, _, data):
                        await self._shared.put(wire.MediaInit(segment_idx=index, mime=mime, stream_id=stream_id))
                        if data:
                            await self._shared.put(data)
                    case Media(_, data):
                        await self._shared.put(data)
                    case MediaEnd(chunks, _):
                        said = wire.MediaSegmentComplete(segment_idx=index, stream_id=stream_id, chunks=chunks)
                        await self._shared.put(said)
                    case Notice(code, message):
                        of = {"session_id": self._shared.session.id, "code": code}
                        logger.warning("stream notice: %s", message, extra=of)
                    case Done():
                        done = event
                    case _:  # steps, and another GPU: the page shows neither
                        pass
        if done is None:
            raise SourceError("worker_failed", f"segment {index} ended without its frames")
        await self._tell_made(project, chosen, done)

    async def _tell_start(self, project: Project, chosen: Chosen, prompt: str) -> None:
        common: dict[str, Any] = {
            "segment_idx": project.segment,
            "source": chosen.source,
            "seed_prompt_index": chosen.seed_prompt_index,
            "loop_iteration": project.iteration,
        }
        await self._shared.put(m.SegmentPromptSource(prompt_id=chosen.prompt_id, **common))
        await self._shared.put(m.SegmentStart(total_segments=project.total_segments, prompt=prompt, **common))

    async def _tell_made(self, project: Project, chosen: Chosen, done: Done) -> None:
        self._shared.session.segment_idx = self._gpu.next_segment
        project.generated += 1
        project.made_in_round += 1
        project.last_prompt = chosen.prompt
        total, own = since(chosen.chosen_at), round(done.generation_time_ms, 2)
        latency = m.Latency(total=total, worker_e2e=own, main_user_step=total, overhead=round(total - own, 2))
        await self._shared.put(m.StepComplete(latency_ms=latency))
        await self._shared.put(m.SegmentComplete(segment_idx=project.segment, total_segments=project.total_segments))
        if project.single_clip:
            project.started = False
            await self._shared.put(m.StreamComplete())
