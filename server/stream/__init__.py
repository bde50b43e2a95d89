"""``/v1/stream``: sessions that watch a video while it is made, over a WebSocket."""

from server.stream.config import ServeFile, StreamingConfig, read_serve_file
from server.stream.mock_status import router as mock_router
from server.stream.routes import router
from server.stream.service import StreamService

__all__ = ["ServeFile", "StreamService", "StreamingConfig", "mock_router", "read_serve_file", "router"]
