"""``/health`` and ``/healthz``: the process is alive. ``/readyz``: it can be used. ``/status``: the GPU workers."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from db.session import Database
from pipeline.errors import ServiceUnavailableError
from server.auth import require
from server.database import ServedLine
from server.errors import RETRY_AFTER_S
from server.health import pool, readiness
from server.health.pool import PoolStatus

SERVICE = "vgen"
router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The answer of a process that is alive."""

    status: str = "ok"
    service: str = SERVICE
    sessions: int = Field(0, description="Streams that are open on this server.")
    stream_mode: str | None = Field(None, description="How streams send pictures where their client says nothing.")
    ts: str = Field(description="This host's clock.")


class Readiness(BaseModel):
    """Whether requests can be answered."""

    status: str = Field(
        description="ready; warming: jobs are taken, and wait until a GPU worker is ready; unavailable (503)."
    )
    service: str = SERVICE
    ready_gpu_workers: int = 0
    total_gpus: int = 0
    available_gpus: int = 0
    warmup_successful_gpus: int = 0
    warmup_failed_gpus: int = 0
    queue_size: int = 0
    ts: str
    reasons: list[str] = Field(default=[], description="What cannot be used, a sentence each.")
    detail: str | None = Field(None, description="With 503: all reasons, as Dreamverse's page shows them.")


@router.get("/health")
@router.get("/healthz")
async def health(request: Request) -> Health:
    """Tell that the process is alive. It asks nobody else, so it answers while the database is away."""
    streams = getattr(request.app.state, "stream", None)
    if streams is None:
        return Health(ts=_now())
    return Health(sessions=len(streams.sessions), stream_mode=streams.config.stream_mode, ts=_now())


@router.get("/readyz", responses={503: {"model": Readiness}})
async def ready(line: ServedLine, response: Response) -> Readiness:
    """Tell whether jobs can be taken and clips handed out; 503, and why, if not."""
    reasons = await readiness.problems(line)
    status = None
    if not reasons:
        try:
            status = await run_in_threadpool(_pool, line.database)
        except ServiceUnavailableError as error:  # since it was asked
            reasons = [str(error)]
    if status is None:
        response.status_code = 503
        response.headers["retry-after"] = str(RETRY_AFTER_S)
        return Readiness(status="unavailable", reasons=reasons, detail="; ".join(reasons), ts=_now())
    counts = status.model_dump(include=set(Readiness.model_fields))
    return Readiness(status="ready" if status.ready_gpu_workers else "warming", ts=_now(), **counts)


@router.get("/status", dependencies=[Depends(require("videos.read"))])
def status(line: ServedLine) -> PoolStatus:
    """Return the GPU workers: what each holds, and whether it is busy."""
    return _pool(line.database)


def _pool(database: Database) -> PoolStatus:
    with database.reading() as session:
        return pool.status(session)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
