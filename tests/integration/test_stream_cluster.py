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
from tests.serving import Served, serving
from tests.unit.server.stream.clients import INIT, prompt

CONFIG = """
streaming: { preset: idle, generation_segment_cap: 2 }
default_request: { sampling: { width: 64, height: 48, num_frames: 9, fps: 8 } }
"""


def _watched(served: Served, init: dict[str, Any], *prompts: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The messages of a session with a snapshot after each segment, and how many binary ones there were."""
    told, media, waiting = [], 0, list(prompts)
    url = served.client.base_url
    with connect(f"ws://{url.host}:{url.port}/v1/stream", compression=None, max_size=None) as socket:
        for message in (init, waiting.pop(0)):
            socket.send(json.dumps(message))
        for received in socket:
            if isinstance(received, bytes):
                media += 1
                continue
            told.append(json.loads(received))
            if told[-1]["type"] == "ltx2_segment_complete" and waiting:
                socket.send(json.dumps({"type": "snapshot_state"}))
            if told[-1]["type"] == "continuation_state_snapshot":
                socket.send(json.dumps(waiting.pop(0)))
    return told, media


def _session_of(told: list[dict[str, Any]]) -> str:
    return str(next(each["session_id"] for each in told if each["type"] == "gpu_assigned"))


def test_a_server_elsewhere_sends_what_the_worker_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serve.yaml").write_text(CONFIG)
    with running_cluster(tmp_path, VGEN_IDLE_STEP_S="0.05") as cluster:
        live = {"VGEN_STREAM_CHUNKS_URL": cluster.redis.url}
        cluster.start_worker(**live, VGEN_HANDOFF_DIR=str(tmp_path / "worker-handoff"))
        for name, value in {**cluster.env, **live, "VGEN_HANDOFF_DIR": str(tmp_path / "server-handoff")}.items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path / "home", "--config", tmp_path / "serve.yaml") as served:
            until(lambda: served.client.get("/readyz").json()["ready_gpu_workers"])
            told, media = _watched(served, INIT, prompt("one"), prompt("two", seed=5))
            assert served.client.get("/health").json()["stream_mode"] == "av_fmp4"
        assert told[-1] == {"type": "ltx2_stream_complete", "reason": "segment_cap"}, told
        session_id = _session_of(told)

        # And another server, which never knew that session, goes on from its snapshot with equal frames
        (state,) = [each["state"] for each in told if each["type"] == "continuation_state_snapshot"]
        hydrated = INIT | {"continuation_state": state, "single_clip_mode": True}
        with serving(tmp_path / "another-home", "--config", tmp_path / "serve.yaml") as served:
            until(lambda: served.client.get("/readyz").json()["ready_gpu_workers"])
            again, _ = _watched(served, hydrated, prompt("two", seed=5))
        assert again[-1]["reason"] == "segment_cap", again
        database = Database(cluster.database_url)
        try:
            view = sessions.session_view(database, session_id)
            streams = [each["stream_id"] for each in told if each["type"] == "media_init"]
            names = [stream_of(session_id, segment.gpu_type) for segment in view.segments]
            assert streams == [stream_id(name, number) for number, name in enumerate(names)]
            assert media == 2 + 5 + 4
            (other,) = sessions.session_view(database, _session_of(again)).segments
            assert (other.frames_sha256, other.num_frames) == (view.segments[1].frames_sha256, 8)
            until(lambda: sessions.session_view(database, session_id).settled)
        finally:
            database.close()
