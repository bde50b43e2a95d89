"""The Celery tasks: one per stage, and one that scores clips of evaluation runs.

A message carries a job id and a segment, or a score step's id; the row says the rest.
"""

from celery import Celery, Task

from pipeline.states import Stage
from tasks.messages import SCORE_CLIPS, task_name
from tasks.worker.scoring import run_score_step
from tasks.worker.step import StepFailedError, run_step


def register(app: Celery) -> None:
    """Give the application its tasks."""
    for stage in Stage:
        _register(app, stage)

    @app.task(bind=True, name=SCORE_CLIPS, shared=False)  # type: ignore[untyped-decorator]
    def score_clips(task: Task, step_id: int) -> None:
        run_score_step(task, step_id)


def _register(app: Celery, stage: Stage) -> None:
    # What is in `throws` is logged in a line, without a traceback: the rows and the worker's own log say more.
    @app.task(bind=True, name=task_name(stage), shared=False, throws=(StepFailedError,))  # type: ignore[untyped-decorator]
    def run(task: Task, job_id: str, segment: int) -> None:
        run_step(task, stage, job_id, segment)
