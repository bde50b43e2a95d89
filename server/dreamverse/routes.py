"""``/ws``, and what its page asks for over HTTP before it opens it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.websockets import WebSocket

from server.auth import require
from server.dreamverse.conversation import DreamverseConversation
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


@router.get("/curated-presets", dependencies=[Depends(require("stream"))])
async def curated_presets(request: Request) -> CuratedPresets:
    """List the stories of the configuration; Dreamverse's page keeps its own where there are none."""
    streams: StreamService | None = request.app.state.stream
    stories = () if streams is None else streams.config.curated_presets
    return CuratedPresets(presets=stories, count=len(stories))
