"""``/workers`` and ``/models``: who is at work, and what can be asked for."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from server.auth import Visit, seeing
from server.database import ServedLine
from server.health.models import models
from server.pages.assets import Viewer
from server.pages.rendering import page
from server.pages.route import PageRoute
from service.status import worker_views

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/workers")
def show_workers(
    request: Request, line: ServedLine, visit: Annotated[Visit, Depends(seeing("metrics.read"))]
) -> Response:
    """Show the live workers, and what each holds."""
    with line.database.reading() as session:
        workers = worker_views(session)
    return page(request, visit, "workers.html", workers=workers)


@router.get("/models")
def show_models(request: Request, line: ServedLine, visit: Viewer) -> Response:
    """Show the presets, the default one first."""
    return page(request, visit, "models.html", cards=models(line).data, default=line.settings.preset)
