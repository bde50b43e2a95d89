"""A server that stops: its clients are told why their connections are closed."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from pipeline.settings import load_settings
from server.process import serve_mock
from server.stream import StreamService


def test_a_server_that_stops_says_so_to_the_clients_of_its_sessions(tmp_path: Path) -> None:
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        serving = threading.Thread(
            target=serve_mock, args=(load_settings(home=tmp_path), StreamService.mock(), listener, stopping)
        )
        serving.start()
        try:
            with connect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None) as client:
                client.send(json.dumps({"type": "session_init_v2"}))
                while json.loads(client.recv(30))["type"] != "ltx2_stream_start":
                    pass
                stopping.set()
                with pytest.raises(ConnectionClosed) as closed:
                    client.recv(30)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "server_stops")
        finally:
            stopping.set()
            serving.join(30)
    assert not serving.is_alive()
