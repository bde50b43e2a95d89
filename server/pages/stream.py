"""``/stream``: a session to try: prompts in, video while it is made."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from pipeline.presets import load_library
from server.auth import Visit, seeing
from server.database import Line, ServedLine
from server.pages.rendering import HEADERS, page
from server.pages.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_POLICY = HEADERS["content-security-policy"].replace("media-src 'self'", "media-src 'self' blob:")
"""A MediaSource reaches its element by an address of the kind ``blob:`` alone."""


@router.get("/stream")
def show_stream(request: Request, line: ServedLine, visit: Annotated[Visit, Depends(seeing("stream"))]) -> Response:
    """Show the form and the player."""
    streams = getattr(request.app.state, "stream", None)
    is_mock = streams is not None and streams.gpus is not None
    default = "mock" if is_mock else (streams.preset if streams is not None else None) or line.settings.preset
    presets = ["mock"] if is_mock else _presets(line, default)
    response = page(
        request,
        None if is_mock else visit,  # a mock has no other pages
        "stream.html",
        presets=presets,
        default=default,
        can_write=streams and streams.prompts.can_write,
    )
    response.headers["content-security-policy"] = _POLICY
    return response


def _presets(line: Line, default: str) -> list[str]:
    """The presets whose segments go on from each other, and the default one."""
    known = load_library(line.settings.effective_presets_dir).presets.values()
    names = {preset.name for preset in known if preset.continuation is not None and not preset.hidden}
    return sorted(names | {default})
