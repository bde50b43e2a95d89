"""`/metrics` of real servers: of the rows, whichever server is asked and however often one ended; and under many who
poll."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from sqlalchemy import func, select

from db.models import Job, StageRun
from db.session import Database
from pipeline.states import JobState
from server.metrics import families
from tests.cli_process import until, vgen
from tests.metrics import Sample, only_grow, scrape, total
from tests.serving import Served, serving


class Watch:
    """Scrapes servers in turn; no counter may ever be less than it was before, on whichever server."""

    def __init__(self) -> None:
        self.highest: dict[Sample, float] = {}

    def scrape(self, *servers: Served) -> dict[Sample, float]:
        for server in servers:
            samples = scrape(server.client)
            growing = only_grow(samples)
            less = {
                sample: (was, growing.get(sample))
                for sample, was in self.highest.items()
                if growing.get(sample, -1.0) < was
            }
            assert not less
            self.highest = growing
        return samples


def post(server: Served, **fields: Any) -> str:
    answer = server.client.post("/v1/videos", json={"prompt": "a fox", "num_frames": 5, **fields})
    answer.raise_for_status()
    return str(answer.json()["id"])


def test_counters_are_the_rows_over_two_servers_and_their_ends(tmp_path: Path) -> None:
    watch, videos = Watch(), []

    # Given two servers, of which one works; when one after the other ends, orderly and not, and others begin
    for how in (signal.SIGTERM, signal.SIGKILL):
        with serving(tmp_path) as first, serving(tmp_path) as second:
            videos += [post(server) for server in (first, second)]
            while not total(watch.scrape(first, second), "vgen_attempts_total", stage="screen") >= len(videos):
                pass
            first.process.send_signal(how)
            first.process.wait(60)
            watch.scrape(second)
            videos.append(post(second))
            watch.scrape(second)

    with serving(tmp_path) as last:
        until(lambda: not total(watch.scrape(last), "vgen_jobs"))
        samples = watch.scrape(last)

    # Then the counters are those of the rows
    with closing(Database(f"sqlite:///{tmp_path}/vgen.sqlite3")) as database, database.reading() as session:
        jobs = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
        attempts = session.execute(
            select(StageRun.stage, StageRun.outcome, func.count()).group_by(StageRun.stage, StageRun.outcome)
        ).all()
    assert jobs == {JobState.SUCCEEDED: len(videos)}
    assert total(samples, "vgen_jobs_submitted_total", preset="tiny-wan") == len(videos)
    assert total(samples, "vgen_jobs_finished_total", outcome="succeeded") == len(videos)
    assert total(samples, "vgen_clip_duration_seconds_count") == len(videos)
    for stage, outcome, count in attempts:
        labels = {"stage": stage.value, "outcome": outcome.value}
        assert total(samples, "vgen_attempts_total", **labels) == count, labels
    assert total(samples, "vgen_attempts_total") == sum(count for *_, count in attempts)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A server that works off thousands of clips; and their batch."""
    home = tmp_path_factory.mktemp("busy")
    prompts = home / "prompts.txt"
    prompts.write_text("#: preset = idle\n" + "".join(f"clip {number}\n" for number in range(3_000)), "utf-8")
    done = vgen("--home", home, "submit", prompts, "--owner", 'an "owner"\\')
    assert done.returncode == 0, done.stderr
    with closing(Database(f"sqlite:///{home}/vgen.sqlite3")) as database, database.reading() as session:
        batch_id = session.scalars(select(Job.batch_id).limit(1)).one()
    with serving(home) as served:
        yield served, batch_id


def test_two_hundred_clients_poll_while_thousands_of_clips_are_made(busy: tuple[Served, str]) -> None:
    served, batch_id = busy
    watch = Watch()

    def poll(number: int) -> list[str]:
        """What one client is told of its clip, which it asks for five times."""
        path = f"/v1/videos/video_{batch_id}-{number:06d}"
        with httpx.Client(base_url=served.client.base_url, timeout=110) as client:
            answers = [client.get(path) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.json()["status"] for answer in answers]

    before = total(watch.scrape(served), "vgen_jobs_finished_total")
    with ThreadPoolExecutor(200) as pool:
        polled = [pool.submit(poll, number) for number in range(200)]
        while not all(future.done() for future in polled):
            watch.scrape(served)
    order = ["queued", "in_progress", "completed"]
    for future in polled:
        places = [order.index(status) for status in future.result()]
        assert places == sorted(places)
    until(lambda: total(watch.scrape(served), "vgen_jobs_finished_total") > before)
    samples = watch.scrape(served)
    assert total(samples, "vgen_jobs_submitted_total") == 3_000
    assert total(samples, "vgen_jobs") + total(samples, "vgen_jobs_finished_total") == 3_000


def test_the_text_names_every_metric_and_nothing_of_a_job(busy: tuple[Served, str]) -> None:
    served, batch_id = busy
    until(lambda: total(scrape(served.client), "vgen_gpu_seconds_total", tenant='an "owner"\\') > 0)

    text = served.client.get("/metrics").text

    for family in (*families.COUNTERS, *families.HISTOGRAMS, *families.GAUGES):
        assert f"# HELP {family.name}" in text
    assert batch_id not in text
    assert "clip " not in text.replace("clip's", "")


def test_openmetrics_is_answered_where_it_is_asked_for(busy: tuple[Served, str]) -> None:
    served, _ = busy
    accept = "application/openmetrics-text;version=1.0.0"

    answer = served.client.get("/metrics", headers={"accept": accept})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "vgen_jobs_finished" in {family.name for family in parse_openmetrics(answer.text)}


def test_requests_are_counted_by_route_over_servers_and_never_by_what_clients_make_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_SERVE_BODY_BYTES", "1000")

    def of(server: Served, **labels: str) -> float:
        return total(scrape(server.client), "vgen_http_requests_total", **labels)

    with serving(tmp_path) as first, serving(tmp_path) as second:
        for number in range(3):
            first.client.get(f"/v1/videos/video_{number}")
            second.client.get(f"/nonesuch/{number}")
            second.client.request("BREW", "/healthz")
        first.client.post("/v1/videos", content=bytes(2_000), headers={"content-type": "application/json"})
        scrape(second.client)

        assert of(first, route="/v1/videos/{video_id}", method="GET", code="404") == 3
        assert of(first, route="none", code="404") == 3
        assert of(first, method="other", code="405") == 3
        assert of(first, method="POST", code="413") == 1, "what is refused before the application is counted, too"
        text = first.client.get("/metrics").text
        assert "nonesuch" not in text
        assert "BREW" not in text
        first.process.send_signal(signal.SIGTERM)
        first.process.wait(60)
        assert of(second, route="/v1/videos/{video_id}") == 3
        count = total(scrape(second.client), "vgen_http_request_duration_seconds_count", route="/v1/videos/{video_id}")
        assert count == 3
