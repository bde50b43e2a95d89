"""Workers that see one host name and one process id, as in containers, are not one."""

from __future__ import annotations

import os
import socket

import pytest

from db import workers
from db.session import Database
from tasks.node_name import new_node_name
from tasks.upkeep.timers import worker_report
from tests.db_fixtures import _sqlite_engine, sqlite_database, sqlite_template

__all__ = ["_sqlite_engine", "sqlite_database", "sqlite_template"]


def test_two_of_one_host_name_and_process_id_have_rows_of_their_own(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    first, second = (worker_report(new_node_name("gpu0"), ["vgen.gpu.cpu"]) for _ in range(2))
    assert (first.host, first.pid) == (second.host, second.pid) == ("box", 1)
    assert first.name.startswith("gpu0-")
    assert first.name.endswith("-1@box")

    with sqlite_database.transaction() as session:
        for report in (first, second):
            workers.report(session, report)
    with sqlite_database.transaction() as session:
        workers.leave(session, first.name)

    with sqlite_database.reading() as session:
        assert [worker.name for worker in workers.alive(session)] == [second.name]
