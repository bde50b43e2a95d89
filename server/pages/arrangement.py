"""A batch's clips by prompt: its seeds beside each other, or in columns by whatever was swept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from db.models import Batch, Job
from db.reading import clips as reading
from db.reading.clips import Place, PromptGroup
from pipeline.html import Card
from pipeline.settings import Settings
from server.pages.address import Address
from server.pages.clips import cards

GROUPS = 20
_MOST = 24
"""Clips of one prompt that are shown; a link leads to all."""
_COLUMNS = 12
_LABEL = "label:"
_NEVER_SWEPT = frozenset({"prompt", "segment_prompts", "labels", "custom_id", "preset_digest"})


@dataclass(frozen=True, slots=True)
class Group:
    """The clips of one prompt."""

    prompt: str
    count: int
    cards: Sequence[Card]
    cells: Mapping[str, Sequence[Card]]
    """The same by the value of the field that makes the columns."""
    all_of_them: str
    """The address of a wall of them all."""


@dataclass(frozen=True, slots=True)
class Groups:
    """A page of groups."""

    groups: Sequence[Group]
    fields: Sequence[str]
    """What differs among these clips, and so can make columns."""
    by: str | None
    columns: Sequence[str]
    next_page: str | None


def groups_of(
    session: Session, batch: Batch, settings: Settings, address: Address, by: str | None, rater: str
) -> Groups:
    """Return a page of a batch's clips by prompt."""
    after = -1 if address.place is None else address.place.seq
    found = reading.prompt_groups(session, batch.id, address.filter, after_seq=after, limit=GROUPS + 1, most=_MOST)
    shown = found[:GROUPS]
    jobs = [job for group in shown for job in group.jobs]
    fields = _differing(shown)
    by = by if by in fields else next(iter(fields), None)
    shown_cards = cards(session, jobs, settings, metric=address.filter.metric, rater=rater)
    by_id = {card.id: card for card in shown_cards}
    columns = sorted({value_of(job.spec, by) for job in jobs}, key=_by_number)[:_COLUMNS] if by else []
    groups = [_group(group, by, by_id, address) for group in shown]
    more = address.after(Place(0, shown[-1].first_seq)) if len(found) > GROUPS else None
    return Groups(groups, fields, by, columns, more)


def _group(group: PromptGroup, by: str | None, by_id: Mapping[str, Card], address: Address) -> Group:
    cells: dict[str, list[Card]] = {}
    for job in group.jobs:
        cells.setdefault(value_of(job.spec, by) if by else "", []).append(by_id[job.id])
    return Group(
        prompt=group.prompt,
        count=group.count,
        cards=[by_id[job.id] for job in group.jobs],
        cells=cells,
        all_of_them=address.with_(view=None, by=None, q=group.prompt[:500]),
    )


def value_of(spec: Mapping[str, Any], by: str) -> str:
    """Return the value by which a job is in a column, as text; an en dash where it has none."""
    name = by.removeprefix(_LABEL)
    value = spec.get("labels", {}).get(name) if by.startswith(_LABEL) else spec.get(by)
    return "–" if value is None else str(value)


def _differing(groups: Sequence[PromptGroup]) -> list[str]:
    """Return the fields and labels in which clips differ: first those that differ among the clips of one prompt."""
    jobs = [job for group in groups for job in group.jobs]
    labels = {f"{_LABEL}{name}" for job in jobs for name in job.spec.get("labels", {})}
    fields = {name for job in jobs for name in job.spec} - _NEVER_SWEPT
    numbers = {by: _values(jobs, by) for by in (*fields, *labels)}
    swept = {by for by in numbers if any(_values(group.jobs, by) > 1 for group in groups)}
    return sorted((by for by in numbers if numbers[by] > 1), key=lambda by: (by not in swept, numbers[by], by))


def _values(jobs: Sequence[Job], by: str) -> int:
    return len({value_of(job.spec, by) for job in jobs})


def _by_number(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
