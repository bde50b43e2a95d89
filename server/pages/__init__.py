"""The pages that people look at in a browser; what they show and do is what ``/api/v1`` does."""

from fastapi import APIRouter

from server.pages import assets, batches, compare, evals, fleet, held, jobs, live, ratings, search, sign_in, submit
from server.pages.route import PageRoute

router = APIRouter(include_in_schema=False)
for part in (assets, sign_in, live, batches, jobs, ratings, compare, evals, fleet, held, search, submit):
    router.include_router(part.router)

__all__ = ["PageRoute", "router"]
