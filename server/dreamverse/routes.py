"""``/ws``, and what its page asks for over HTTP before it opens it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.websockets import WebSocket

from pipeline.enhancers.system_prompts import Operation, SystemPrompts
from server.auth import require
from server.database import ServedLine
from server.dreamverse.conversation import DreamverseConversation
from server.errors import ApiError
from server.stream.config import StoryPreset
from server.stream.routes import serve_socket
from server.stream.service import StreamService

router = APIRouter(tags=["dreamverse"])


@router.websocket("/ws")
async def ws(socket: WebSocket) -> None:
    """Serve one client of Dreamverse's page; see docs/streaming.md."""
    await serve_socket(socket, DreamverseConversation)


class CuratedPresets(BaseModel):
    """Stories, as Dreamverse's page reads them."""

    presets: tuple[StoryPreset, ...]
    count: int
    file_path: None = Field(None, description="Always null: stories are in the server's configuration.")
    fallback_file_path: None = None


class PromptSystemConfig(BaseModel):
    """What language models are told, as Dreamverse's page reads it."""

    next_segment_system_prompt: str
    auto_extension_system_prompt: str
    rewrite_window_system_prompt: str
    rewrite_user_system_prompt: str
    rewrite_model: str
    rewrite_temperature: float


@router.get("/curated-presets", dependencies=[Depends(require("stream"))])
async def curated_presets(request: Request) -> CuratedPresets:
    """List the stories of the configuration; 404 where it has none: Dreamverse's page then keeps its own."""
    streams: StreamService | None = request.app.state.stream
    stories = () if streams is None else streams.config.curated_presets
    if not stories:
        raise ApiError(404, "the server's configuration has no `streaming.curated_presets`", code="no_stories")
    return CuratedPresets(presets=stories, count=len(stories))


@router.get("/prompt-system-config", dependencies=[Depends(require("stream"))])
def prompt_system_config(line: ServedLine) -> PromptSystemConfig:
    """Return what language models are told; it is changed by the files of `VGEN_ENHANCE_SYSTEM_PROMPT_DIR`."""
    enhance = line.settings.enhance
    prompts = SystemPrompts(enhance.system_prompt_dir)
    rewrite = prompts.get(Operation.REWRITE)
    return PromptSystemConfig(
        next_segment_system_prompt=prompts.get(Operation.ENHANCE),
        auto_extension_system_prompt=prompts.get(Operation.AUTO_EXTEND),
        rewrite_window_system_prompt=rewrite,
        rewrite_user_system_prompt=rewrite,
        rewrite_model=enhance.model,
        rewrite_temperature=enhance.temperature,
    )
