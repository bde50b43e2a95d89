"""The GPU workers as the rows know them, in the fields of FastVideo's pool."""

from __future__ import annotations

from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import workers
from db.models import LIVE_INDEX, Step, Worker
from db.reading import gauges
from db.reading.sessions import waiting_for_gpu
from db.scheduling import capacity
from pipeline.states import StepState


class GpuStatus(BaseModel):
    """One GPU worker."""

    ready: bool = Field(description="Whether it takes clips now; one that holds no preset loads that of the next.")
    available: bool = Field(description="Whether it is ready, makes no clip and is reserved for no session.")
    client_count: int = Field(description="Whom it works for: the session that it is reserved for, or its clips.")
    current_model_id: str | None = Field(description="The preset whose model it holds.")
    process_alive: bool = Field(description="Always true: a worker that was not seen for 30 s is not listed.")
    warmup_enabled: bool = Field(description="Always true: a model is warm before its worker is ready.")
    warmup_success: bool
    warmup_error: str | None = Field(description="Why it could not load the preset that it is to hold.")
    gpu_type: str | None


class PoolStatus(BaseModel):
    """All GPU workers that are alive."""

    total_gpus: int
    ready_gpu_workers: int
    available_gpus: int
    warmup_enabled: bool = True
    warmup_successful_gpus: int
    warmup_failed_gpus: int
    queue_size: int = Field(description="Clips and sessions that wait for a GPU.")
    active_sessions: int = Field(description="Sessions that have a GPU, and clips of others that are made now.")
    gpu_status: dict[str, GpuStatus]


def status(session: Session) -> PoolStatus:
    """Read the workers' rows."""
    now = workers.now(session)
    reserved = capacity.reserved_workers(session)
    busy = {**_busy(session), **dict.fromkeys(reserved, 1)}
    gpus = {
        worker.name: _gpu(worker, busy.get(worker.name, 0), now)
        for worker in workers.alive(session)
        if worker.gpu_type is not None
    }
    return PoolStatus(
        total_gpus=len(gpus),
        ready_gpu_workers=sum(gpu.ready for gpu in gpus.values()),
        available_gpus=sum(gpu.available for gpu in gpus.values()),
        warmup_successful_gpus=sum(gpu.warmup_success for gpu in gpus.values()),
        warmup_failed_gpus=sum(gpu.warmup_error is not None for gpu in gpus.values()),
        queue_size=gauges.waiting_for_a_gpu(session) + len(waiting_for_gpu(session)),
        active_sessions=sum(gpu.client_count for gpu in gpus.values()),
        gpu_status=gpus,
    )


def _gpu(worker: Worker, clients: int, now: int) -> GpuStatus:
    ready = (worker.assigned_preset is None or capacity.ready(worker, now)) and not worker.draining
    assigned = worker.assigned_preset or ""
    failure = (worker.failed_presets or {}).get(assigned) if assigned in capacity.failed(worker, now) else None
    return GpuStatus(
        ready=ready,
        available=ready and clients == 0,
        client_count=clients,
        current_model_id=worker.loaded,
        process_alive=True,
        warmup_enabled=True,
        warmup_success=worker.loaded is not None,
        warmup_error=None if failure is None else f"{failure['code']}: {failure['error']}",
        gpu_type=worker.gpu_type,
    )


def _busy(session: Session) -> dict[str, int]:
    """Steps that each worker holds."""
    rows = session.execute(
        select(Step.worker, func.count()).where(LIVE_INDEX, Step.state == StepState.RUNNING).group_by(Step.worker)
    )
    return {worker: count for worker, count in rows if worker is not None}
