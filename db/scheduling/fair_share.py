"""Fair share: in which order waiting steps are dispatched. Pure functions of what the rows say.

Higher priority goes first. Within a priority owners take turns, and so do the batches of an owner. Among those whose
turn it is, the earliest deadline goes first.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.states import Stage

NO_DEADLINE = 2**62
"""The deadline of a batch that has none: later than any."""


@dataclass(frozen=True, slots=True)
class WaitingBatch:
    """A batch with waiting steps."""

    owner: str
    deadline: int
    """In the database's milliseconds."""
    heads: Mapping[Stage, int]
    """The priority of the first step that waits, by stage; of those that wait to be generated, of the first need's."""
    only_need: str | None
    """The need of all its clips that wait to be generated; None if there are several, or none."""
    scored: bool
    """Whether its clips are scored before they are published."""
    of_session: bool = False
    """Whether its clips are made on the GPU that is reserved for its session."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting step that may be dispatched."""

    step_id: int
    job_id: str
    owner: str
    batch_id: str
    segment: int
    roll: int
    priority: int
    deadline: int
    need: str = ""
    """The need of a generate step."""
    scored: bool = False
    last_segment: bool = True
    attempts: int = 0


class Enough:
    """Decides which batches need not be read. If each clip is a batch of its own, there are thousands.

    Batches are read in the order of ``in_turn``. Once as many batches of one owner as there is room for have each had a
    step of the expected priority, the steps of that owner's further batches would all come later.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()

    def reached(self, of: tuple[str, ...], room: int) -> bool:
        return self._counts[of] >= room

    def note(self, of: tuple[str, ...], candidates: Sequence[Candidate], expected: int) -> None:
        self._counts[of] += any(item.priority == expected for item in candidates)


def in_turn(batches: Mapping[str, WaitingBatch], stage: Stage) -> list[tuple[str, WaitingBatch]]:
    """Batches with steps that wait at a stage: highest priority first, then the earliest deadline, then the oldest."""
    waiting = [(batch_id, batch) for batch_id, batch in batches.items() if stage in batch.heads]
    return sorted(waiting, key=lambda item: (-item[1].heads[stage], item[1].deadline))


def ordered(candidates: Iterable[Candidate], limit: int | None = None) -> list[Candidate]:
    """Order candidates by priority; within one, owners take turns, and within an owner's turn the owner's batches.

    Batches of one owner share that owner's turns, so that many small batches do not crowd out another owner's large
    one. Among those whose turn it is, the earliest deadline goes first. Returns at most ``limit`` candidates.
    """
    by_owner: dict[tuple[int, str], dict[str, list[Candidate]]] = {}
    for item in candidates:
        by_owner.setdefault((item.priority, item.owner), {}).setdefault(item.batch_id, []).append(item)
    ranked: list[tuple[int, int, int, int, Candidate]] = []
    for (priority, _), batches in by_owner.items():
        rounds = itertools.zip_longest(
            *sorted(batches.values(), key=lambda items: (items[0].deadline, items[0].batch_id))
        )
        turns = (item for one_round in rounds for item in one_round if item is not None)
        ranked += [(-priority, rank, item.deadline, item.step_id, item) for rank, item in enumerate(turns)]
    most = len(ranked) if limit is None else max(0, limit)
    return [entry[4] for entry in heapq.nsmallest(most, ranked, key=lambda entry: entry[:4])]
