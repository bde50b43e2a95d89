"""Probes of a mock, in the fields of FastVideo's: ``/health`` and ``/healthz``, ``/readyz``, ``/status``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from server.stream.mock import PRESET
from server.stream.service import StreamService

SERVICE = "ltx2-streaming-mock-server"
"""What tests of Dreamverse's page look for, before they use a server."""
router = APIRouter()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _counts(streams: StreamService) -> dict[str, int]:
    gpus = streams.gpus
    total, available = (0, 0) if gpus is None else (gpus.count, gpus.available)
    return {
        "ready_gpu_workers": total,
        "total_gpus": total,
        "available_gpus": available,
        "warmup_successful_gpus": total,
        "warmup_failed_gpus": 0,
        "queue_size": 0 if gpus is None else gpus.queue_size,
    }


@router.get("/health")
@router.get("/healthz")
async def health(request: Request) -> dict[str, Any]:
    """Tell that the process is alive, and how many sessions it has."""
    streams: StreamService = request.app.state.stream
    mode = streams.config.stream_mode
    return {"status": "ok", "service": SERVICE, "sessions": len(streams.sessions), "stream_mode": mode, "ts": _now()}


@router.get("/readyz")
async def ready(request: Request) -> dict[str, Any]:
    """Tell that sessions are taken."""
    return {"status": "ready", "service": SERVICE, **_counts(request.app.state.stream), "ts": _now()}


@router.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """Return the GPUs that there would be."""
    streams: StreamService = request.app.state.stream
    gpus = {} if streams.gpus is None else {str(gpu): _gpu(streams, gpu) for gpu in range(streams.gpus.count)}
    sessions = len(streams.sessions.active_sessions())
    return {**_counts(streams), "active_sessions": sessions, "warmup_enabled": True, "gpu_status": gpus}


@router.get("/", include_in_schema=False)
async def root() -> Response:
    """Lead to the page that shows what this server does."""
    return RedirectResponse("/stream")


def _gpu(streams: StreamService, gpu: int) -> dict[str, Any]:
    clients = sum(session.gpu_id == gpu for session in streams.sessions.active_sessions())
    return {
        "ready": True,
        "available": clients == 0,
        "client_count": clients,
        "current_model_id": PRESET,
        "process_alive": True,
        "warmup_enabled": True,
        "warmup_success": True,
        "warmup_error": None,
        "warmup_timings": {},
    }
