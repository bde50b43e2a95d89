"""What the line would be without rows: pure Celery chains of five tasks, with every setting that helps them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery, chain

app = Celery("bare", broker=os.environ["BARE_BROKER_URL"], set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        # Far shorter than anybody's real one, in favour of the chains: a lost worker's tasks come back soon.
        "visibility_timeout": 10,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
    },
)
STAGES = ("enhance", "screen", "generate", "encode", "publish")


@app.task(name="bare.step")
def step(number: int, stage: str, seconds: float) -> None:
    """Work, and note the end of the last stage and of every generation."""
    time.sleep(seconds)
    if stage in ("generate", "publish"):
        with Path(os.environ["BARE_NOTES"]).open("a", encoding="ascii") as notes:
            notes.write(f"{stage} {number}\n")


def send(number: int, seconds: float) -> None:
    """One job: a chain whose generate stage takes so long."""
    times = {"generate": seconds, "encode": 0.05}
    chain(*(step.si(number, stage, times.get(stage, 0.0)) for stage in STAGES), app=app).apply_async(retry=False)
