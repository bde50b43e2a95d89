"""The memory ladder as rows: a step's rung, and the rung that clips of a shape have needed on a GPU type."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import events, workers
from db.base import insert_into
from db.models import MemoryNeed, Step
from db.session import now_ms
from pipeline.digests import canonical_json, sha256_hex
from pipeline.policy.memory_ladder import CLIPS_TO_LEARN, REMEMBER_MS, Rung, changes_pixels, next_rung
from pipeline.policy.routes import gpu_type_of, split_need
from pipeline.spec import JobSpec


@dataclass(frozen=True, slots=True)
class NextTry:
    """The next try of a clip that did not fit: the step's new columns, and the event that says so."""

    columns: dict[str, Any]
    event_data: dict[str, Any]


def shape_of(spec: JobSpec) -> str:
    """sha256 (hex) of what decides how much memory a clip needs."""
    values = spec.model_dump(mode="json", include={"preset", "preset_digest", "width", "height", "num_frames"})
    return sha256_hex(canonical_json({**values, "acceleration": spec.acceleration.given()}))


def at_start(session: Session, step_id: int, queue: str, spec: JobSpec, *, batch_id: str, job_id: str) -> Rung:
    """The rung on which a clip's first attempt begins; one above the ground is pinned to the step, and said."""
    gpu_type = gpu_type_of(queue) or ""
    row = session.execute(
        select(MemoryNeed.rung, MemoryNeed.clips).where(
            MemoryNeed.gpu_type == gpu_type,
            MemoryNeed.shape == shape_of(spec),
            MemoryNeed.since > now_ms() - REMEMBER_MS,
        )
    ).one_or_none()
    if row is None or row.clips < CLIPS_TO_LEARN:
        return Rung.PLAIN
    rung = Rung(row.rung)
    session.execute(update(Step).where(Step.id == step_id).values(memory_rung=rung))
    reason = f"the last {row.clips} clips of this shape needed it on {gpu_type}"
    events.record(
        session, "memory_rung", batch_id=batch_id, job_id=job_id, gpu=gpu_type, rung=rung.name.lower(), reason=reason
    )
    return rung


def after_failure(session: Session, step_id: int, queue: str, spec: JobSpec, error: str) -> NextTry | None:
    """Return the next try of a clip that ran out of memory: the next rung, else another GPU type, else None."""
    rung_now, need = session.execute(select(Step.memory_rung, Step.need).where(Step.id == step_id)).one()
    gpu_type, rung = gpu_type_of(queue) or "", Rung(rung_now)
    details = {"gpu": gpu_type, "was": rung.name.lower(), "reason": error[:500]}
    higher = next_rung(spec.acceleration, rung)
    if higher is not None:
        restarts = changes_pixels(spec.acceleration, rung, higher)
        return NextTry(
            {"memory_rung": higher}, {**details, "rung": higher.name.lower(), "restarts_from_seed": restarts}
        )
    others = _other_types(session, gpu_type, need or spec.preset)
    if not others:
        return None
    columns = {"memory_rung": Rung.PLAIN, "need": f"{spec.preset} {','.join(others)}"}
    return NextTry(columns, {**details, "rung": "another_gpu", "gpus": others, "restarts_from_seed": True})


def _other_types(session: Session, gpu_type: str, need: str) -> list[str]:
    """Live types that the job keeps to, without this one and those that are known to have no more memory.

    A job that has been moved on names what was left to it then: no type comes twice.
    """
    allowed = split_need(need)[1]
    memory: dict[str, int | None] = {}
    for worker in workers.alive(session):
        if worker.gpu_type is not None and not worker.draining:
            largest = memory.get(worker.gpu_type)
            memory[worker.gpu_type] = max(worker.memory_bytes or 0, largest or 0) or None
    least = memory.pop(gpu_type, None)
    return sorted(
        other
        for other, size in memory.items()
        if (not allowed or other in allowed) and (least is None or size is None or size > least)
    )


def note_made(session: Session, queue: str, spec: JobSpec, rung: Rung) -> None:
    """Count a clip that was made on this rung; one that needed none ends the row."""
    key = {"gpu_type": gpu_type_of(queue) or "", "shape": shape_of(spec)}
    this_need = (MemoryNeed.gpu_type == key["gpu_type"], MemoryNeed.shape == key["shape"])
    if rung < Rung.TILED:
        session.execute(delete(MemoryNeed).where(*this_need).execution_options(synchronize_session=False))
        return
    new = insert_into(session.connection().dialect.name, MemoryNeed).values(
        **key,
        preset=spec.preset,
        width=spec.width,
        height=spec.height,
        num_frames=spec.num_frames,
        rung=rung,
        clips=1,
        since=now_ms(),
    )
    session.execute(
        new.on_conflict_do_update(
            index_elements=["gpu_type", "shape"], set_={"rung": new.excluded.rung, "clips": MemoryNeed.clips + 1}
        )
    )
