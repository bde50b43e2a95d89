"""A GPU worker's presets as rows: the assigned one, the loaded one, and those that failed to load."""

from dataclasses import dataclass

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from db import events, measurements, workers
from db.models import LIVE_INDEX, Reservation, Step, Worker
from db.notify import wake_dispatcher
from db.scheduling import capacity
from db.session import now_ms
from pipeline.errors import NoSuchRowError
from pipeline.policy.routes import is_encode_queue


@dataclass(frozen=True, slots=True)
class Residency:
    """The models of one GPU worker, as its row has them."""

    assigned_preset: str | None
    loaded: str | None
    serves: bool
    """Whether it takes its preset's clips now."""
    failed: bool
    """Whether it could not load its preset."""
    draining: bool
    reserved_queue: str | None = None
    """The only queue that it reads while it is reserved for a session."""


_RESERVED = (Reservation.worker == Worker.name) & Reservation.ended_at.is_(None)
_RESIDENCY = (
    select(Worker, now_ms().label("now"), Reservation.queue)
    .outerjoin(Reservation, _RESERVED)
    .where(Worker.name == bindparam("p_name"))
)


def of_worker(session: Session, name: str) -> Residency | None:
    """Read the worker's row; None when it has none (yet)."""
    row = session.execute(_RESIDENCY, {"p_name": name}).one_or_none()
    if row is None:
        return None
    worker, now, reserved_queue = row
    serves = capacity.ready(worker, now) and not worker.draining
    return Residency(
        worker.assigned_preset,
        worker.loaded,
        serves,
        worker.assigned_preset in capacity.failed(worker, now),
        worker.draining,
        reserved_queue,
    )


def set_loaded(session: Session, name: str, preset: str | None) -> None:
    """Record what the worker holds now; a preset that it has loaded is no longer a failed one."""
    row = session.scalars(select(Worker).where(Worker.name == name).with_for_update()).one_or_none()
    if row is None:
        return
    row.loaded = preset
    wake_dispatcher(session)
    failures = row.failed_presets or {}
    if preset is not None and preset in failures:
        row.failed_presets = {name: failure for name, failure in failures.items() if name != preset}


def record_load(
    session: Session, name: str, gpu_type: str | None, preset: str, seconds: float, *, source: str, was: str | None
) -> None:
    """Count one load of a model, from ``disk`` or the ``host``'s memory: placement is there to save swaps."""
    took = round(seconds, 3)
    events.record(
        session, "model_loaded", worker=name, gpu=gpu_type, preset=preset, seconds=took, source=source, was=was
    )
    measurements.record_model_load(session, preset)


def record_recycled(session: Session, name: str, gpu_type: str | None, preset: str, reason: str) -> None:
    """Record why a worker replaced its generator's process."""
    events.record(session, "generator_recycled", worker=name, gpu=gpu_type, preset=preset, reason=reason)


def record_failed_load(session: Session, name: str, preset: str, *, code: str, error: str) -> None:
    """Record that the worker gave up the preset for now: the dispatcher finds another worker, or lets the jobs fail."""
    row = session.scalars(select(Worker).where(Worker.name == name).with_for_update()).one_or_none()
    if row is None:
        return
    now = session.scalars(select(now_ms())).one()
    row.failed_presets = {**(row.failed_presets or {}), preset: {"at": now, "code": code, "error": error[:500]}}
    events.record(session, "preset_failed", worker=name, gpu=row.gpu_type, preset=preset, code=code, error=error[:500])


def drain_host(session: Session, host: str, reason: str) -> list[str]:
    """Stop a host's live GPU workers from taking more work; the names of all that are stopped now.

    Its other workers go on: frames that it has made are encoded where they lie.

    Raises:
        NoSuchRowError: no live worker is on that host.
    """
    on_host = [row for row in workers.alive(session) if row.host == host]
    if not on_host:
        hosts = ", ".join(sorted({row.host for row in workers.alive(session)})) or "none"
        raise NoSuchRowError(f"no live worker is on host {host!r}; hosts with live workers: {hosts}")
    names = [row.name for row in on_host if row.gpu_type is not None]
    for name in names:
        drain(session, name, reason)
    return names


def work_left(session: Session, host: str) -> int:
    """Return how many steps the host's workers are at, its frames that wait for their encoder included."""
    on_host = [row for row in workers.alive(session) if row.host == host]
    queues = {queue for row in on_host for queue in row.queues if is_encode_queue(queue)}
    running = Step.worker.in_([row.name for row in on_host])
    query = select(func.count()).select_from(Step).where(LIVE_INDEX, running | Step.queue.in_(queues))
    return session.scalars(query).one()


def drain(session: Session, name: str, reason: str) -> None:
    """Stop a worker from taking more work until a person starts it anew."""
    moved = session.execute(
        update(Worker)
        .where(Worker.name == name, Worker.drain_reason.is_(None))
        .values(draining=True, drain_reason=reason)
        .returning(Worker.name)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if moved is not None:
        events.record(session, "worker_drained", worker=name, reason=reason)
