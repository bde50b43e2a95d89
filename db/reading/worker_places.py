"""Identifies restarted workers: a new worker on the same GPU of the same host counts as the same place."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"(?P<role>[a-z]+\d*)-[0-9a-f]{8}-\d+@(?P<host>.+)")
"""``tasks.node_name``: the role, a random part, the process's id, and the host."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time from a worker's first attempt to the end of its last one, in milliseconds."""

    worker: str
    first_at: int
    last_at: int


def places(spans: Iterable[Span]) -> dict[str, str]:
    """Return the place of each worker: ``gpu0@host``.

    Two that were at work at once are two, although their names say the same: containers may share a host's name.
    """
    whole: dict[str, Span] = {}
    for span in spans:
        known = whole.get(span.worker, span)
        whole[span.worker] = Span(span.worker, min(known.first_at, span.first_at), max(known.last_at, span.last_at))
    ends: dict[str, list[int]] = {}
    by_worker: dict[str, str] = {}
    for span in sorted(whole.values(), key=lambda item: (item.first_at, item.worker)):
        match = _NAME.fullmatch(span.worker)
        if match is None:
            by_worker[span.worker] = span.worker
            continue
        name = f"{match['role']}@{match['host']}"
        taken = ends.setdefault(name, [])
        number = next((number for number, end in enumerate(taken) if end <= span.first_at), len(taken))
        taken[number:] = [span.last_at, *taken[number + 1 :]]
        by_worker[span.worker] = name if number == 0 else f"{name} ({number + 1})"
    return by_worker
