"""What a GPU worker does for the clip that is likely next, while it makes one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sqlalchemy import update

from db.clips import cancel_retry_approve
from db.models import Job
from db.session import Database
from pipeline.generators.base import GenerationRequest, Phase, Progress
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.settings import load_settings
from pipeline.spec import InputRef, JobSpec
from pipeline.stages.ahead import KEEP_S, take_prefetched
from pipeline.states import Stage
from pipeline.wiring import make_storage
from tasks.worker.generator import SharedGenerator
from tasks.worker.prefetch import Prefetcher
from tests.unit.db.line import QUEUES, Line


def to_generate(line: Line, count: int) -> list[str]:
    """Jobs whose generate steps are dispatched, the first of them claimed."""
    batch_id = line.submit(count=count)
    line.worker(slots=count)
    ids = [f"{batch_id}-{number:06}" for number in range(count)]
    for job_id in ids:
        line.finish(line.go_on(job_id, Stage.SCREEN))
    line.admit()
    line.claim(ids[0], Stage.GENERATE)
    return ids


def test_inputs_of_the_next_clip_are_fetched_once_for_each_clip_and_no_row_changes(
    sqlite_database: Database, tmp_path: Path
) -> None:
    settings, line = load_settings(home=tmp_path), Line(sqlite_database)
    storage = make_storage(settings)
    _, second, third = to_generate(line, 3)
    picture = InputRef(sha256=hashlib.sha256(b"picture").hexdigest(), media_type="image/png", name="a.png")
    storage.put_bytes(picture.key, b"picture", content_type="image/png")
    spec = {**line.job(second).spec, "image": picture.model_dump(mode="json")}
    with sqlite_database.transaction() as session:
        session.execute(update(Job).where(Job.id == second).values(spec=spec))
    before = line.snapshot()
    clip = JobSpec.model_validate({**line.job(third).spec, "num_frames": 1, "width": 16, "height": 16})
    frames = tmp_path / "x.rgb"
    frames.write_bytes(bytes(16 * 16 * 3))
    found: list[str | None] = []

    with GeneratorProcess(settings) as process:
        resident = SharedGenerator(process, lambda *_: None)
        ahead = Prefetcher(
            "w1",
            settings,
            database=lambda: sqlite_database,
            storage=lambda: storage,
            resident=resident,
            queues=lambda: QUEUES,
        )

        def look(progress: Progress) -> None:
            if progress.phase is Phase.DENOISE and progress.step in (1, 2):
                found.append(ahead.poll())

        request = GenerationRequest(spec=clip, prompt="x", frames_path=frames)
        assert ahead.poll() is None, "nothing is being made"
        first = resident.generate(request, look)
        assert found == [second, None]
        assert line.snapshot() == before
        storage.delete(picture.key)
        assert take_prefetched(picture, tmp_path / "taken.png", settings)
        assert (tmp_path / "taken.png").read_bytes() == b"picture"

        # The hint was wrong: the next look sees another job, and the clips are the same
        with sqlite_database.transaction() as session:
            cancel_retry_approve.cancel(session, second)
        assert resident.generate(request, look).frames_sha256 == first.frames_sha256
        assert found[2:] == [third, None]
    assert KEEP_S > 60
    assert not take_prefetched(picture.model_copy(update={"sha256": "0" * 64}), tmp_path / "none.png", settings)
