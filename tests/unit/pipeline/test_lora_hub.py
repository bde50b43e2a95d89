"""A LoRA of the hub: what is said when the hub is away, and how soon."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from huggingface_hub import constants

from pipeline.errors import ServiceUnavailableError
from pipeline.models.lora_files import from_hub


class _Hub(BaseHTTPRequestHandler):
    """Answers with the status that a repository is named after; none where that is 0."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        status = 404  # of what the library asks about itself
        if self.path.startswith("/api/models/"):
            self.asked.append(self.path)
            status = int(self.path.rpartition("-")[2])
        if status:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a hub on this machine is asked."""
    _Hub.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield _Hub.asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("weight_name", [None, "style.safetensors"])
@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_hub_that_is_away_is_asked_once(hub: list[str], status: int, weight_name: str | None) -> None:
    with pytest.raises(ServiceUnavailableError, match=f"the hub cannot be reached for org/answers-{status} at main"):
        from_hub(f"org/answers-{status}", weight_name, None)

    assert len(hub) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_hub_refuses_is_a_mistake_of_the_request(hub: list[str], status: int) -> None:
    with pytest.raises(ValueError, match=f"org/answers-{status} at main: "):
        from_hub(f"org/answers-{status}", None, None)

    assert len(hub) == 1
