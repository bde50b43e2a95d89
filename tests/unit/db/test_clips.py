"""Jobs as people look through them: each once, in order, whatever the size of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from db.models import Job
from db.reading import clips
from db.reading.clips import Filter, Order
from db.session import Database
from pipeline.spec import ScoreOptions
from pipeline.states import JobState, Stage
from pipeline.work import Outcome
from tests.unit.db.line import Line, result_of, score_of

METRIC = "checks.black"


@pytest.fixture
def batch_id(database: Database) -> str:
    """Nine jobs of four prompts: three scored and done, one blocked, the others waiting."""
    line = Line(database)
    line.worker()
    rows = [
        {"prompt": f"a {name}", "seed": seed, "labels": {"größe": size}, "custom_id": f"c{name}{seed}"}
        for name, size in (("Fox", "1"), ("boat 50%", "2"), ("köter", "3"))
        for seed in (5, 6, 7)
    ]
    batch_id = line.submit(*rows, score=ScoreOptions(metrics=("checks",)))
    for seq, value in ((7, 0.25), (1, 0.75), (4, 0.75)):
        claimed = line.go_on(f"{batch_id}-{seq:06}", Stage.SCORE)
        scored = result_of(claimed)
        line.finish(claimed, type(scored)(scored.output, scores=(score_of(METRIC, value),)))
        line.finish_job(f"{batch_id}-{seq:06}")
    screened = line.go_on(f"{batch_id}-000005", Stage.SCREEN)
    line.finish(screened, result_of(screened, Outcome.BLOCKED))
    return batch_id


def shown(database: Database, batch_id: str, chosen: Filter, order: Order, size: int) -> list[int]:
    """The jobs' places in the file, by pages of that size."""
    seqs, after = list[int](), None
    with database.reading() as session:
        while True:
            page = clips.page(session, batch_id, chosen, order, after=after, limit=size)
            assert len(page.jobs) <= size
            seqs += [job.seq for job in page.jobs]
            if page.next is None:
                return seqs
            after = page.next


SCORED = Filter(metric=METRIC)


def test_each_job_is_shown_once_and_in_order_whatever_the_size_of_a_page(database: Database, batch_id: str) -> None:
    expected: dict[Order, tuple[Filter, list[int]]] = {
        Order.FILE: (Filter(), list(range(9))),
        Order.TROUBLE: (Filter(), [5, 0, 1, 2, 3, 4, 6, 7, 8]),
        Order.BEST: (SCORED, [1, 4, 7, 0, 2, 3, 5, 6, 8]),
        Order.WORST: (SCORED, [7, 1, 4, 0, 2, 3, 5, 6, 8]),
    }
    for order, (chosen, seqs) in expected.items():
        for size in (1, 2, 3, 9, 20):
            assert shown(database, batch_id, chosen, order, size) == seqs, (order, size)
    newest = shown(database, batch_id, Filter(), Order.NEWEST, 2)
    assert set(newest[:4]) == {1, 4, 5, 7}
    assert newest[4:] == [0, 2, 3, 6, 8]


def test_filters_hold_together(database: Database, batch_id: str) -> None:
    cases: list[tuple[Filter, Callable[[Job], bool]]] = [
        (Filter(text="fox"), lambda job: job.seq < 3),
        (Filter(text="50%"), lambda job: 3 <= job.seq < 6),
        (Filter(text="_"), lambda job: False),
        (Filter(text="CBOAT 50%6"), lambda job: job.seq == 4),
        (Filter(label=("größe", None)), lambda job: True),
        (Filter(label=("größe", "3")), lambda job: job.seq >= 6),
        (Filter(seed=6, text="a"), lambda job: job.seq % 3 == 1),
        (Filter(preset="idle"), lambda job: True),
        (Filter(preset="other"), lambda job: False),
        (Filter(states=(JobState.BLOCKED,)), lambda job: job.seq == 5),
        (Filter(metric=METRIC, least=0.5), lambda job: job.seq in (1, 4)),
        (Filter(metric=METRIC, least=0.1, most=0.5), lambda job: job.seq == 7),
    ]
    with database.reading() as session:
        every: Sequence[Job] = clips.page(session, batch_id, Filter(), Order.FILE, after=None, limit=20).jobs
    for chosen, fits in cases:
        assert shown(database, batch_id, chosen, Order.FILE, 2) == [job.seq for job in every if fits(job)], chosen


def test_groups_of_a_prompt_come_by_pages_with_their_first_jobs(database: Database, batch_id: str) -> None:
    groups, after = [], -1
    with database.reading() as session:
        while found := clips.prompt_groups(session, batch_id, Filter(), after_seq=after, limit=2, most=2):
            groups += found
            after = found[-1].first_seq
        assert list(clips.metrics_of(session, batch_id)) == [METRIC]
        assert clips.presets_of(session, batch_id) == ["idle"]

    assert [(group.prompt, group.count, [job.seq for job in group.jobs]) for group in groups] == [
        ("a Fox", 3, [0, 1]),
        ("a boat 50%", 3, [3, 4]),
        ("a köter", 3, [6, 7]),
    ]
