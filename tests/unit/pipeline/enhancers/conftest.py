"""Fixtures for tests that ask a server on this machine."""

from __future__ import annotations

import pytest

from tests.unit.pipeline.enhancers.llm_server import KEY, KEY_VARIABLE, server

__all__ = ["server"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
