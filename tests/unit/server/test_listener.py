"""The socket of a server."""

from __future__ import annotations

import socket

import pytest

from pipeline.errors import InputError
from server.listener import is_loopback, listen, shown_address


def test_no_connection_waits_for_acknowledgements_before_it_sends() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_who_can_reach_it(host: str, loopback: bool) -> None:
    with listen(host, 0) as listener:
        assert is_loopback(listener) is loopback
        assert shown_address(listener).endswith(f":{listener.getsockname()[1]}")


@pytest.mark.parametrize("host", ["198.51.100.7", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=f"^--host or --port: {host}:0 cannot be listened on: "):
        listen(host, 0)
