"""The pages that people look at in a browser; what they show and do is what ``/api/v1`` does."""

from fastapi import APIRouter

from server.pages import assets, batches, jobs, live, sign_in
from server.pages.route import PageRoute

router = APIRouter(include_in_schema=False)
for part in (assets.router, sign_in.router, live.router, batches.router, jobs.router):
    router.include_router(part)

__all__ = ["PageRoute", "router"]
