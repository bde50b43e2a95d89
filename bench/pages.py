"""Measures the cost of the web pages: ``python -m bench.pages [--clips 10000] [--repeat 20]``.

A home of its own with one batch of so many clips that have ended, each with its files' rows and a poster, a tenth of
them rated; `vgen serve` over it, on SQLite.
Each page is asked for one after the other. The first paint is that of Chromium, headless, over the same server, where
node, playwright-core (``make test-clients`` installs it) and Chromium are there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from sqlalchemy import insert, update

from db import schema
from db.clips.batch_closing import close_batch
from db.models import ArtifactRow, ClipRating, Job, Score, Step
from db.session import Database
from pipeline.digests import sha256_hex
from pipeline.settings import load_settings
from pipeline.states import JobState, StepState
from tests.serving import Served, serving
from tests.unit.db.line import Line

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PLAYWRIGHT = Path(__file__).parents[1] / ".clients" / "pages"
METRIC = "checks.flicker"


def fill(home: Path, clips: int) -> str:
    """Make a batch of clips that have ended, of which every hundredth failed; its id."""
    settings = load_settings(home=home)
    database = Database(settings.effective_database_url)
    schema.upgrade(database)
    lines = [
        {"prompt": f"a fox number {number} in the snow", "seed": seed, "labels": {"shot": f"s{number % 40}"}}
        for number in range(clips // 4)
        for seed in range(4)
    ]
    batch_id = Line(database).submit(*lines)
    poster = _poster()
    digest = sha256_hex(poster)
    ids = [f"{batch_id}-{seq:06}" for seq in range(len(lines))]
    with database.transaction() as session:
        ended = {"finished_at": Job.created_at + Job.seq, "error_code": None, "error": None}
        session.execute(update(Step).values(state=StepState.DONE))
        session.execute(update(Job).values(state=JobState.SUCCEEDED, **ended))
        failed = {"state": JobState.FAILED, "error_code": "worker_lost", "error": "its worker was killed"}
        session.execute(update(Job).where(Job.seq % 100 == 50).values(failed))
        for kind in ("poster", "strip", "video"):
            session.execute(insert(ArtifactRow), [_artifact(job_id, kind, digest, len(poster)) for job_id in ids])
        session.execute(insert(ClipRating), [_rating(batch_id, job_id, seq) for seq, job_id in enumerate(ids)][::10])
        session.execute(insert(Score), [_score(job_id, seq) for seq, job_id in enumerate(ids)])
        close_batch(session, batch_id)
    first = home / "storage" / f"media/{ids[0]}/{digest}.poster.jpg"
    for job_id in ids:
        path = home / "storage" / f"media/{job_id}/{digest}.poster.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(poster) if path == first else os.link(first, path)
    database.close()
    return batch_id


def _poster() -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Image.effect_noise((320, 180), 30).convert("RGB").save(file.name, quality=70)
        return Path(file.name).read_bytes()


def _artifact(job_id: str, kind: str, digest: str, size: int) -> dict[str, object]:
    """A file's row; of the poster's the file is there, too."""
    name, media_type = {
        "poster": ("poster.jpg", "image/jpeg"),
        "strip": ("strip.jpg", "image/jpeg"),
        "video": ("mp4", "video/mp4"),
    }[kind]
    of = {"roll": 1, "sha256": digest, "size": size, "media_type": media_type, "created_at": 0}
    return {"job_id": job_id, "kind": kind, "key": f"media/{job_id}/{digest}.{name}", **of}


def _rating(batch_id: str, job_id: str, seq: int) -> dict[str, object]:
    of = {"job_id": job_id, "batch_id": batch_id, "rater": "ada", "updated_at": 0}
    return {**of, "stars": 1 + seq // 10 % 5, "note": "worth another look"}


def _score(job_id: str, seq: int) -> dict[str, object]:
    value = {"score": (seq * 7919 % 10007) / 10007, "reason": None, "passed": None, "details": {}, "version": 1}
    scorer = {"scorer_digest": "a" * 64, "scorer": {}, "weights_digest": None, "scored_at": 0}
    return {"job_id": job_id, "roll": 1, "metric": METRIC, **value, **scorer}


def measure(served: Served, path: str, repeat: int) -> tuple[float, float, float, int]:
    """Median and 95th percentile of the milliseconds, the server's CPU milliseconds, and the bytes of the page."""
    client, taken, cpu = served.client, list[float](), 0.0
    for number in range(repeat + 2):
        if number == 2:
            cpu = cpu_ms(served.process.pid)
        begun = time.perf_counter()
        answer = client.get(path)
        taken.append((time.perf_counter() - begun) * 1000)
        answer.raise_for_status()
    taken = sorted(taken[2:])  # the first two find nothing compiled
    used = (cpu_ms(served.process.pid) - cpu) / repeat
    return statistics.median(taken), taken[int(len(taken) * 0.95) - 1], used, len(answer.content)


def cpu_ms(pid: int) -> float:
    """The CPU time of a process so far; of the server here the idle line's loops are in it, too."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def paint(url: str) -> dict[str, float] | None:
    """First contentful paint and the frames of a scroll, in Chromium; None where it is not here."""
    browser = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if browser is None or shutil.which("node") is None or not PLAYWRIGHT.exists():
        return None
    script = Path(__file__).with_name("pages_paint.mjs")
    command = ("node", str(script), url, browser)
    done = subprocess.run(command, cwd=PLAYWRIGHT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vgen-pages-") as folder:
        batch_id = fill(Path(folder), options.clips)
        job_id = f"{batch_id}-{options.clips // 2:06}"
        batch = f"/batches/{batch_id}"
        with serving(Path(folder)) as served:
            for path in (
                "/",
                batch,
                f"{batch}?sort=file&after=0_{options.clips - 200}",
                f"{batch}?sort=newest",
                f"{batch}?metric={METRIC}&sort=best",
                f"{batch}?sort=stars",
                f"{batch}?q=number+77",
                f"{batch}?label=shot%3Ds7",
                f"{batch}?view=prompts",
                f"{batch}?view=grid&by=seed",
                f"/jobs/{job_id}",
                f"/compare?job={batch_id}-000001&job={batch_id}-000002",
                "/search?q=number+77",
                "/held",
                "/evals",
                "/models",
                "/workers",
                "/submit",
            ):
                median, high, cpu, size = measure(served, path, options.repeat)
                times = f"{median:7.1f} ms  p95 {high:7.1f} ms  CPU {cpu:5.1f} ms"
                print(f"{path.replace(batch_id, 'ID'):50} {times}  {size / 1000:6.0f} kB")
            figures = paint(f"{served.client.base_url}{batch}")
            print("no browser here" if figures is None else f"in Chromium, {batch.replace(batch_id, 'ID')}: {figures}")
    print(f"{options.clips} clips; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)


if __name__ == "__main__":
    main()
