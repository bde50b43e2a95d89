"""Models, and the probes: what a server says of itself and of its workers, also while its services are away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import text

from db.session import Database
from tests.cli_process import until
from tests.cluster import running_cluster
from tests.serving import Served, serving

POOL = {"total_gpus", "ready_gpu_workers", "available_gpus", "warmup_successful_gpus", "warmup_failed_gpus"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("serve")
    presets = home / "presets"
    presets.mkdir()
    (presets / "mine.toml").write_text('extends = "tiny-wan"\ndescription = "My own."\nrandom_weights = true\n')
    (presets / "broken.toml").write_text("extends = 7\n")
    return home


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home) as served:
        yield served


def test_models_are_presets_and_the_default_comes_first(served: Served, home: Path) -> None:
    client = openai.OpenAI(base_url=f"{served.client.base_url}/v1", api_key="none", max_retries=0)

    models = list(client.models.list())

    assert models[0].id == "tiny-wan"
    by_name = {model.id: model for model in models}
    assert {"mine", "svd-xt"} <= by_name.keys()
    assert not {"idle", "broken"} & by_name.keys()
    assert (by_name["mine"].owned_by, by_name["svd-xt"].owned_by) == ("user", "vgen")
    assert all(model.object == "model" and model.created > 0 for model in models)
    assert client.models.retrieve("svd-xt") == by_name["svd-xt"]
    assert str(home) not in served.client.get("/v1/models").text
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("of/nobody")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert served.client.get("/v1/model_info").json() == {"model_path": "tiny-wan", "preset": "tiny-wan"}


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_a_live_process_says_so(served: Served, path: str) -> None:
    answer = served.client.get(path)

    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "service", "ts", "sessions", "stream_mode"}
    assert answer.json()["status"] == "ok"


def test_a_solo_server_is_ready_with_its_own_worker(served: Served) -> None:
    until(lambda: served.client.get("/readyz").json()["status"] == "ready")

    ready = served.client.get("/readyz").json()
    assert ready.keys() == {"status", "service", "ts", "queue_size", "reasons", "detail"} | POOL
    assert (ready["total_gpus"], ready["available_gpus"], ready["reasons"]) == (1, 1, [])


def test_status_shows_a_worker_at_work(served: Served) -> None:
    seen: dict[str, Any] = {}

    def shows_it() -> bool:
        seen.update(served.client.get("/status").json())
        return bool(seen["active_sessions"])

    served.client.post("/v1/videos", json={"prompt": "a fox", "num_frames": 81}).raise_for_status()
    until(shows_it)

    assert seen.keys() >= POOL | {"queue_size", "gpu_status", "warmup_enabled"}
    (gpu,) = seen["gpu_status"].values()
    assert gpu["current_model_id"] == "tiny-wan"
    assert (gpu["client_count"], gpu["available"], gpu["process_alive"]) == (1, False, True)
    assert (gpu["warmup_success"], gpu["warmup_error"], seen["available_gpus"]) == (True, None, 0)


def test_what_is_away_is_named_and_a_live_process_stays_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_cluster(tmp_path) as cluster:
        for name, value in cluster.env.items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path / "home") as served:
            get = served.client.get
            waiting = get("/readyz")
            assert (waiting.status_code, waiting.json()["status"]) == (200, "warming")

            for service, server in {"database": cluster.postgres, "broker": cluster.redis, "store": cluster.s3}.items():
                server.stop()
                away = get("/readyz")
                assert (away.status_code, away.json()["status"]) == (503, "unavailable"), service
                assert [reason.partition(":")[0] for reason in away.json()["reasons"]] == [service]
                assert 0 < int(away.headers["retry-after"]) <= 120
                assert get("/healthz").status_code == 200
                for path in ("/status", "/metrics"):
                    assert get(path).status_code == (503 if service == "database" else 200), path
                assert get("/v1/models").status_code in ((200, 503) if service == "database" else (200,))
                server.start()
                until(lambda: get("/readyz").status_code == 200)

            # Tables of a release before it are no better than none
            with closing(Database(cluster.database_url)) as database:
                with database.transaction() as session:
                    session.execute(text("DROP TABLE alembic_version"))
                behind = get("/readyz")
                assert behind.status_code == 503
                assert "run `vgen db upgrade`" in behind.json()["reasons"][0]


def test_probes_are_answered_while_many_ask(served: Served) -> None:
    answers: list[int] = []

    def ask() -> None:
        answers.extend(served.client.get(path).status_code for path in ("/healthz", "/readyz", "/status", "/metrics"))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert answers == [200] * 200
