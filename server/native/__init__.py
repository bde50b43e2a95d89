"""vgen's own API: prompt files, batches and jobs, with the documents that ``--json`` prints."""

from fastapi import APIRouter

from server.native import batches, events, jobs, line, votes

router = APIRouter(tags=["line"])
for part in (batches.router, events.router, jobs.router, line.router, votes.router):
    router.include_router(part)

__all__ = ["router"]
