"""``/ws``, and what its page asks for over HTTP before it opens it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from pipeline.enhancers.system_prompts import Operation, SystemPrompts
from server.auth import require
from server.database import ServedLine
from server.dreamverse.conversation import DreamverseConversation
from server.errors import ApiError, error_body
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


class LoraOptions(BaseModel):
    """The adapters that the developer tools of Dreamverse's page may switch: there are none."""

    styles: tuple[str, ...] = ("none",)
    labels: dict[str, str] = {"none": "None"}
    has_base_lora: bool = False


@router.get("/lora/options", dependencies=[Depends(require("stream"))])
async def lora_options() -> LoraOptions:
    """Say that no adapter can be switched; Dreamverse's page then shows none."""
    return LoraOptions()


@router.post("/lora", dependencies=[Depends(require("stream"))])
async def lora() -> JSONResponse:
    """Refuse to change the adapters of every session at once."""
    return _not_here("sessions have no LoRA adapters; prompts of a batch name their own (loras)")


@router.post("/curated-presets/append", dependencies=[Depends(require("stream"))])
async def append_curated_preset() -> JSONResponse:
    """Refuse to store a story: stories are in the server's configuration."""
    return _not_here("stories are in the server's configuration: streaming.curated_presets")


@router.post("/prompt-system-config", dependencies=[Depends(require("stream"))])
async def save_prompt_system_config() -> JSONResponse:
    """Refuse to change what language models are told: that is in files of the server."""
    return _not_here("what language models are told is in files of VGEN_ENHANCE_SYSTEM_PROMPT_DIR")


def _not_here(message: str) -> JSONResponse:
    """The refusal of a change that the server does not take from a page, which shows `detail`."""
    return JSONResponse({**error_body(403, message, code="read_only"), "detail": message}, 403)


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
    return PromptSystemConfig(
        next_segment_system_prompt=prompts.get(Operation.ENHANCE),
        auto_extension_system_prompt=prompts.get(Operation.AUTO_EXTEND),
        rewrite_window_system_prompt=prompts.get(Operation.REWRITE_WINDOW),
        rewrite_user_system_prompt=prompts.get(Operation.WRITE_WINDOW),
        rewrite_model=enhance.model,
        rewrite_temperature=enhance.temperature,
    )
