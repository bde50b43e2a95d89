"""``/stream``: a session to try: prompts in, video while it is made."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from pipeline.models.hub import examine
from pipeline.presets import Preset, load_library
from pipeline.settings import Settings
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
    presets = {"mock": True} if is_mock else _presets(line, default)
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


def _presets(line: Line, default: str) -> dict[str, bool]:
    """The presets that need nothing but a prompt, and the default one; whether each can be used, those that can first.

    A server that makes no clips itself does not know which models its workers have: it marks none.
    """
    settings = line.settings
    library = load_library(settings.effective_presets_dir).presets
    names = {name for name, each in library.items() if _needs_only_a_prompt(each) and not each.hidden} | {default}
    usable = {name: not settings.solo or _is_installed(library.get(name), settings) for name in names}
    return dict(sorted(usable.items(), key=lambda item: (not item[1], item[0])))


def _needs_only_a_prompt(preset: Preset) -> bool:
    return preset.workload.startswith("t") and not preset.required_inputs


def _is_installed(preset: Preset | None, settings: Settings) -> bool:
    return preset is not None and not examine(preset, settings.effective_cache_dir).problems
