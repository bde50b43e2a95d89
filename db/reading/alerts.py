"""Alerts, each reported once: jobs that no live worker can run, and deadlines at risk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import events
from db.models import Batch, Event
from db.reading import estimates, remaining
from db.session import now_ms
from pipeline.presets import Preset

_CALM = 0.1
"""A deadline that was at risk is on track again once the estimate leaves this part of the time that is left."""


class Topic(StrEnum):
    """The subject of an alert; the events when it begins and when it is over."""

    STUCK = "stuck"
    DEADLINE = "deadline"

    @property
    def begins(self) -> str:
        return {Topic.STUCK: "stuck", Topic.DEADLINE: "deadline_at_risk"}[self]

    @property
    def ends(self) -> str:
        return {Topic.STUCK: "unstuck", Topic.DEADLINE: "deadline_on_track"}[self]


@dataclass(frozen=True, slots=True)
class Alert:
    """The state of one topic of one batch. ``on`` is None where it is unknown: then it stays as it was."""

    batch_id: str
    topic: Topic
    on: bool | None
    data: dict[str, Any] = field(default_factory=dict)


def check(session: Session, presets: Mapping[str, Preset] | None = None) -> list[Alert]:
    """The state of every topic of the batches that still have jobs to do."""
    now = session.scalars(select(now_ms())).one()
    alerts = []
    active = session.scalars(select(Batch).where(Batch.active).order_by(Batch.id)).all()
    remaining_work = remaining.of_all_batches(session) if any(batch.deadline_at is not None for batch in active) else {}
    for batch in active:
        held_up = estimates.stuck(session, batch, presets)
        alerts.append(
            Alert(
                batch.id,
                Topic.STUCK,
                bool(held_up),
                {"jobs": sum(item.jobs for item in held_up), "reasons": [item.reason for item in held_up]},
            )
        )
        if batch.deadline_at is not None:
            estimate = estimates.completion(session, batch, presets, remaining_work)
            alerts.append(
                Alert(
                    batch.id,
                    Topic.DEADLINE,
                    at_risk(batch.deadline_at, now, estimate.seconds),
                    {"deadline_at": batch.deadline_at, "estimate_s": estimate.seconds},
                )
            )
    return alerts


def at_risk(deadline_at: int, now: int, seconds: float | None) -> bool | None:
    """Return whether a batch that takes so many seconds more misses its deadline; None when it is unknown.

    Times are the database's milliseconds.
    """
    if now >= deadline_at:
        return True
    if seconds is None:
        return None
    left_s = (deadline_at - now) / 1000
    if seconds > left_s:
        return True
    return False if seconds <= left_s * (1 - _CALM) else None


def record(session: Session, alert: Alert) -> bool:
    """Record the event of an alert that began or is over; False when the last one of its topic said the same."""
    if alert.on is None:
        return False
    topic = alert.topic
    batch = session.scalars(select(Batch.id).where(Batch.id == alert.batch_id).with_for_update()).one_or_none()
    if batch is None:
        return False
    last = session.scalars(
        select(Event.kind)
        .where(Event.batch_id == batch, Event.kind.in_((topic.begins, topic.ends)))
        .order_by(Event.id.desc())
        .limit(1)
    ).one_or_none()
    if (last == topic.begins) == alert.on:
        return False
    events.record(session, topic.begins if alert.on else topic.ends, batch_id=batch, **alert.data)
    return True
