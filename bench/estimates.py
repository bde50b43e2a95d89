"""Measures the accuracy of `vgen submit`'s estimates: ``python -m bench.estimates [--clips 4 16 8] [--step 0.05]``.

A home of its own with the idle generator. Each batch is estimated as it is submitted, after those before it, and then
made by a `vgen run` of its own, so that each loads its model. Printed is estimate over truth, of GPU time and of the
whole time from the batch's first step to its last.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sqlalchemy import func, select

from db.models import Event, Job, StageRun
from db.reading import past_estimates
from db.session import Database
from pipeline.settings import load_settings


def made(folder: Path, clips: int, step_s: float) -> str:
    """Submit a batch and work it off; its id."""
    file = folder / f"{clips}.txt"
    file.write_text("".join(f"clip {number} of {clips}\n" for number in range(clips)), "utf-8")
    env = {**os.environ, "VGEN_HOME": str(folder / "home"), "VGEN_IDLE_STEP_S": str(step_s), "VGEN_LOG_LEVEL": "ERROR"}
    vgen = [sys.executable, "-m", "cli.main"]
    submit = [*vgen, "submit", str(file), "--again", "--preset", "idle", "--num-inference-steps", "10"]
    subprocess.run(submit, env=env, check=True, capture_output=True)
    subprocess.run([*vgen, "run"], env=env, check=True, capture_output=True)
    with _reading(folder) as session:
        return session.scalars(select(Job.batch_id).order_by(Job.batch_id.desc()).limit(1)).one()


def _reading(folder: Path):  # type: ignore[no-untyped-def] - a context manager of a session
    settings = load_settings(home=folder / "home")
    return Database(settings.effective_database_url).reading()


def compared(folder: Path, batch_id: str) -> tuple[float | None, float, float | None, float]:
    """Estimated and taken GPU seconds, estimated and taken seconds of the whole batch."""
    with _reading(folder) as session:
        estimate = session.scalars(
            select(Event.data).where(Event.batch_id == batch_id, Event.kind == past_estimates.ESTIMATED)
        ).first()
        began, ended = session.execute(
            select(func.min(StageRun.started_at), func.max(StageRun.ended_at))
            .join(Job, Job.id == StageRun.job_id)
            .where(Job.batch_id == batch_id)
        ).one()
        gpu = past_estimates.gpu_seconds_taken(session, batch_id)
    data = estimate or {}
    return data.get("gpu_seconds"), gpu, data.get("seconds"), (ended - began) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[4, 16, 8, 24], help="clips of each batch")
    parser.add_argument("--step", type=float, default=0.05, help="seconds of a denoising step, of ten a clip")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vgen-bench-") as name:
        folder = Path(name)
        for number, clips in enumerate(chosen.clips, 1):
            gpu_estimate, gpu, estimate, took = compared(folder, made(folder, clips, chosen.step))
            of_gpu = (
                "none yet" if gpu_estimate is None else f"{gpu_estimate:6.2f} s, {gpu_estimate / gpu:4.2f} of the truth"
            )
            of_all = "none yet" if estimate is None else f"{estimate:6.2f} s, {estimate / took:4.2f} of the truth"
            print(
                f"batch {number}, {clips:3} clips: GPU time {gpu:6.2f} s, estimated {of_gpu}; "
                f"whole {took:6.2f} s, estimated {of_all}",
                flush=True,
            )


if __name__ == "__main__":
    main()
