"""A session whose server and worker share no folder: fragments come through Redis, and without it from the clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from db.session import Database
from service import sessions
from tasks.live_chunks import stream_id, stream_of
from tests.cli_process import until
from tests.cluster import running_cluster
from tests.serving import serving
from tests.unit.server.stream.clients import INIT, prompt

CONFIG = """
streaming: { preset: idle, generation_segment_cap: 2 }
default_request: { sampling: { width: 64, height: 48, num_frames: 9, fps: 8 } }
"""


def _watched(address: str) -> tuple[list[dict[str, Any]], int]:
    """The messages of a session of two segments, and how many binary ones there were."""
    told, media = [], 0
    with connect(address, compression=None, max_size=None) as socket:
        for message in (INIT, prompt("one"), prompt("two")):
            socket.send(json.dumps(message))
        for received in socket:
            if isinstance(received, bytes):
                media += 1
            else:
                told.append(json.loads(received))
    return told, media


def test_a_server_elsewhere_sends_what_the_worker_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serve.yaml").write_text(CONFIG)
    with running_cluster(tmp_path, VGEN_IDLE_STEP_S="0.05") as cluster:
        live = {"VGEN_STREAM_CHUNKS_URL": cluster.redis.url}
        cluster.start_worker(**live, VGEN_HANDOFF_DIR=str(tmp_path / "worker-handoff"))
        for name, value in {**cluster.env, **live, "VGEN_HANDOFF_DIR": str(tmp_path / "server-handoff")}.items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path / "home", "--config", tmp_path / "serve.yaml") as served:
            until(lambda: served.client.get("/readyz").json()["ready_gpu_workers"])
            url = served.client.base_url
            told, media = _watched(f"ws://{url.host}:{url.port}/v1/stream")
            assert served.client.get("/health").json()["stream_mode"] == "av_fmp4"
        assert told[-1] == {"type": "ltx2_stream_complete", "reason": "segment_cap"}, told
        session_id = next(each["session_id"] for each in told if each["type"] == "gpu_assigned")
        database = Database(cluster.database_url)
        try:
            view = sessions.session_view(database, session_id)
            streams = [each["stream_id"] for each in told if each["type"] == "media_init"]
            names = [stream_of(session_id, segment.gpu_type) for segment in view.segments]
            assert streams == [stream_id(name, number) for number, name in enumerate(names)]
            assert media == 2 + 5 + 4
            until(lambda: sessions.session_view(database, session_id).settled)
        finally:
            database.close()
