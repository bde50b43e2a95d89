"""The WebSocket's route."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.websockets import WebSocket

from pipeline.errors import VgenError
from server.database import Line
from server.errors import ApiError, answer, of_vgen_error
from server.stream.admission import stream_caller
from server.stream.connection import Connection
from server.stream.conversation import Conversation
from server.stream.service import StreamService

router = APIRouter()


@router.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    """Serve one session; see docs/streaming.md."""
    await serve_socket(socket, Conversation)


async def serve_socket(socket: WebSocket, connection: type[Connection]) -> None:
    """Let a client in who may open streams, and serve it in the protocol of ``connection``."""
    line: Line = socket.app.state.line
    service: StreamService | None = socket.app.state.stream
    try:
        caller, protocol = await stream_caller(socket, line)
        if service is None:
            raise ApiError(503, "this server has no streams", code="streams_unavailable")
    except ApiError as error:
        await socket.send_denial_response(answer(error))
        return
    except VgenError as error:
        await socket.send_denial_response(answer(of_vgen_error(error)))
        return
    await socket.accept(subprotocol=protocol)
    await connection(socket, service, caller).run()
