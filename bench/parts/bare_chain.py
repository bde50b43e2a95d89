"""The bare Celery chain for bench/orchestration.py: an empty task with a Redis result backend."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("bare", broker=os.environ["BENCH_REDIS_URL"], backend=os.environ["BENCH_REDIS_URL"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)


@app.task(name="bare.empty")
def empty() -> None:
    """Do nothing."""
