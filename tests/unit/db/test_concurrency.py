"""Several processes at one instant: each step is claimed once, one key makes one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from db.session import Database
from pipeline.states import Stage
from tests.forked_cli import CONTEXT
from tests.unit.db.line import Line


def _claim_all(url: str, batch_id: str, barrier: Any, answers: Any) -> None:
    line = Line(Database(url))
    barrier.wait(60)
    ids = [f"{batch_id}-{number:06d}" for number in range(20)]
    answers.put([job_id for job_id in ids if line.try_claim(job_id, Stage.SCREEN) is not None])
    line.database.close()


def _submit_one(url: str, batch_id: str, barrier: Any, answers: Any) -> None:
    line = Line(Database(url))
    barrier.wait(60)
    answers.put([line.submit(count=50, key="same")])
    line.database.close()


def _at_once(database: Database, work: Callable[..., None], batch_id: str, number: int) -> list[list[str]]:
    url = database.engine.url.render_as_string(hide_password=False)
    barrier, answers = CONTEXT.Barrier(number), CONTEXT.Queue()
    children = [CONTEXT.Process(target=work, args=(url, batch_id, barrier, answers)) for _ in range(number)]
    try:
        for child in children:
            child.start()
        return [answers.get(timeout=90) for _ in children]
    finally:
        for child in children:
            child.join(5)
            if child.is_alive():
                child.kill()
                child.join()
        answers.close()


def test_four_processes_claim_each_step_once(database: Database) -> None:
    line = Line(database)
    batch_id = line.submit(count=20)
    line.admit()

    claimed = [job_id for part in _at_once(database, _claim_all, batch_id, 4) for job_id in part]

    assert sorted(claimed) == [f"{batch_id}-{number:06d}" for number in range(20)]


def test_eight_processes_with_one_key_make_one_batch(database: Database) -> None:
    ids = {batch_id for part in _at_once(database, _submit_one, "", 8) for batch_id in part}

    assert len(ids) == 1
    line = Line(database)
    assert line.batch(ids.pop()).total == 50
    line.check_sums()
