"""What a GPU worker's row says of models: the one that it is to hold, the one it holds, and what failed to load."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from db import events
from db.models import Worker
from db.scheduling import capacity
from db.session import now_ms


@dataclass(frozen=True, slots=True)
class Place:
    """What a GPU worker's row says of its lane."""

    lane: str | None
    loaded: str | None
    serves: bool
    """Whether it takes its lane's clips now."""
    failed: bool
    """Whether it could not load its lane's preset."""
    draining: bool


_PLACE = select(Worker, now_ms().label("now")).where(Worker.name == bindparam("p_name"))


def place(session: Session, name: str) -> Place | None:
    """None when the worker has no row (yet)."""
    row = session.execute(_PLACE, {"p_name": name}).one_or_none()
    if row is None:
        return None
    worker, now = row
    serves = capacity.ready(worker, now) and not worker.draining
    return Place(
        worker.assigned_preset,
        worker.loaded,
        serves,
        worker.assigned_preset in capacity.failed(worker, now),
        worker.draining,
    )


def set_loaded(session: Session, name: str, lane: str | None) -> None:
    """What the worker holds now; a lane that it has loaded is no failed one."""
    row = session.scalars(select(Worker).where(Worker.name == name).with_for_update()).one_or_none()
    if row is None:
        return
    row.loaded = lane
    if lane is not None and lane in (row.failed_presets or {}):
        row.failed_presets = {other: why for other, why in (row.failed_presets or {}).items() if other != lane}


def record_load(
    session: Session,
    name: str,
    gpu_type: str | None,
    preset: str,
    seconds: float,
    *,
    source: str,
    was: str | None,
) -> None:
    """Count one load of a model, from ``disk`` or the ``host``'s memory: swaps are what lanes are there to save."""
    took = round(seconds, 3)
    events.record(
        session, "model_loaded", worker=name, gpu=gpu_type, preset=preset, seconds=took, source=source, was=was
    )


def record_recycled(session: Session, name: str, gpu_type: str | None, preset: str, reason: str) -> None:
    """Say why a worker replaced its generator's process."""
    events.record(session, "generator_recycled", worker=name, gpu=gpu_type, preset=preset, reason=reason)


def record_failed_load(session: Session, name: str, lane: str, *, code: str, error: str) -> None:
    """The worker gave up loading the preset for now: the dispatcher looks for another one, or lets the jobs hear."""
    row = session.scalars(select(Worker).where(Worker.name == name).with_for_update()).one_or_none()
    if row is None:
        return
    now = session.scalars(select(now_ms())).one()
    row.failed_presets = {**(row.failed_presets or {}), lane: {"at": now, "code": code, "error": error[:500]}}
    events.record(session, "preset_failed", worker=name, gpu=row.gpu_type, preset=lane, code=code, error=error[:500])


def drain(session: Session, name: str, reason: str) -> None:
    """Have a worker take no more work, until it is started anew by a person."""
    moved = session.execute(
        update(Worker)
        .where(Worker.name == name, Worker.drain_reason.is_(None))
        .values(draining=True, drain_reason=reason)
        .returning(Worker.name)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is not None:
        events.record(session, "worker_drained", worker=name, reason=reason)
