"""Which tests of a parallel run (``--dist loadfile``) go to one process: a file's, and those that share a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/faults/",)
"""Folders whose files share a fixture that costs more than running them side by side saves."""


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        folder = next((folder for folder in TOGETHER if nodeid.startswith(folder)), None)
        return folder or str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Asked by xdist; None leaves it to xdist."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
