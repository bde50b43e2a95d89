"""The line's six tasks, one a stage, and the one that scores clips of evaluation runs.

A message carries a job id and a segment, or a score step's id; the row says the rest.
"""

from celery import Celery, Task

from pipeline.states import Stage
from tasks.messages import SCORE_CLIPS
from tasks.worker.scoring import run_score_step
from tasks.worker.step import run_step


def register(app: Celery) -> None:
    """Give the application its tasks."""

    @app.task(bind=True, name="vgen.enhance", shared=False)  # type: ignore[untyped-decorator]
    def enhance(task: Task, job_id: str, segment: int) -> None:
        run_step(task, Stage.ENHANCE, job_id, segment)

    @app.task(bind=True, name="vgen.screen", shared=False)  # type: ignore[untyped-decorator]
    def screen(task: Task, job_id: str, segment: int) -> None:
        run_step(task, Stage.SCREEN, job_id, segment)

    @app.task(bind=True, name="vgen.generate", shared=False)  # type: ignore[untyped-decorator]
    def generate(task: Task, job_id: str, segment: int) -> None:
        run_step(task, Stage.GENERATE, job_id, segment)

    @app.task(bind=True, name="vgen.encode", shared=False)  # type: ignore[untyped-decorator]
    def encode(task: Task, job_id: str, segment: int) -> None:
        run_step(task, Stage.ENCODE, job_id, segment)

    @app.task(bind=True, name="vgen.score", shared=False)  # type: ignore[untyped-decorator]
    def score(task: Task, job_id: str, segment: int) -> None:
        run_step(task, Stage.SCORE, job_id, segment)

    @app.task(bind=True, name=SCORE_CLIPS, shared=False)  # type: ignore[untyped-decorator]
    def score_clips(task: Task, step_id: int) -> None:
        run_score_step(task, step_id)

    @app.task(bind=True, name="vgen.publish", shared=False)  # type: ignore[untyped-decorator]
    def publish(task: Task, job_id: str, segment: int) -> None:
        run_step(task, Stage.PUBLISH, job_id, segment)
