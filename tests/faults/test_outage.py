"""After an outage of the database the reconciler gives everybody one lease's time to renew."""

from __future__ import annotations

import time
from pathlib import Path

from db import schema
from db.session import Database
from pipeline.settings import load_settings
from pipeline.states import Stage, StepState
from tasks.app import make_app
from tasks.upkeep.timers import Timers
from tests.cluster import wait_for
from tests.faults.proxy import Mode, Proxy, running_proxies
from tests.servers import Server
from tests.unit.db.line import Line


def test_no_lease_is_ended_right_after_an_outage(postgres_server: Server, postgres_url: str, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, worker={"lease_s": 60, "reconcile_s": 0.1, "dispatch_s": 0.1})
    with running_proxies() as proxies:
        proxy = Proxy(proxies, postgres_server.port)
        direct = Database(postgres_url)
        through = Database(postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        schema.upgrade(direct)
        line = Line(direct)
        _, before, _ = line.bring_to(Stage.SCREEN)
        _, after, _ = line.bring_to(Stage.SCREEN)
        # A broker that does not exist: it is the rows that are looked at.
        loops = Timers(make_app(), settings, dispatch=True, trust_leases_at_once=True, database=through)
        loops.start()
        try:
            # Given a reconciler at work
            line.expire(before)
            wait_for(lambda: line.step(before, Stage.SCREEN).state is not StepState.RUNNING, "the lease is ended", 30)

            # When a lease runs out while the database cannot be reached
            proxy.set(Mode.REFUSE)
            proxy.cut()
            time.sleep(1)
            line.expire(after)
            proxy.heal()
            time.sleep(2)

            # Then nobody ends it yet: its worker could not have renewed it
            assert line.step(after, Stage.SCREEN).state is StepState.RUNNING
        finally:
            loops.stop()
            through.close()
            direct.close()
