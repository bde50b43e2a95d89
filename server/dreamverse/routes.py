"""``/ws``, and what its page asks for over HTTP before it opens it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.websockets import WebSocket

from server.auth import require
from server.dreamverse.conversation import DreamverseConversation
from server.stream.routes import serve_socket
from server.stream.service import StreamService

router = APIRouter(tags=["dreamverse"])
_MAY_STREAM = [Depends(require("stream"))]


@router.websocket("/ws")
async def ws(socket: WebSocket) -> None:
    """Serve one client of Dreamverse's page; see docs/streaming.md."""
    await serve_socket(socket, DreamverseConversation)


@router.get("/curated-presets", include_in_schema=False, dependencies=_MAY_STREAM)
async def curated_presets(request: Request) -> Any:
    """List the stories of the configuration; the page keeps its own where there are none."""
    streams: StreamService | None = request.app.state.stream
    stories = [] if streams is None else [story.model_dump() for story in streams.config.curated_presets]
    return {"presets": stories, "count": len(stories), "file_path": None, "fallback_file_path": None}


@router.post("/curated-presets/append", include_in_schema=False, dependencies=_MAY_STREAM)
async def append_curated_preset() -> JSONResponse:
    """Refuse to write: stories are in the configuration's file."""
    text = "stories are read from `streaming.curated_presets` of the server's configuration; add it there"
    return JSONResponse({"detail": text}, 403)
