"""The pages that people look at in a browser; what they show and do is what ``/api/v1`` does."""

from fastapi import APIRouter

from server.pages import (
    assets,
    batches,
    compare,
    evals,
    fleet,
    held,
    jobs,
    live,
    ratings,
    search,
    sign_in,
    stream,
    submit,
)
from server.pages.route import PageRoute, add_unknown_page

router = APIRouter(include_in_schema=False)
for part in (assets, sign_in, live, batches, jobs, ratings, compare, evals, fleet, held, search, stream, submit):
    router.include_router(part.router)

stream_router = APIRouter(include_in_schema=False)
"""The page of streams alone, with what it loads."""
for part in (assets, stream):
    stream_router.include_router(part.router)

__all__ = ["PageRoute", "add_unknown_page", "router", "stream_router"]
