"""Prometheus's own tool reads what ``deploy/`` hands to Prometheus."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", PROMETHEUS / "vgen-alerts.yml"),
        ("check", "rules", PROMETHEUS / "vgen-router-alerts.yml"),
        ("test", "rules", REPOSITORY / "tests" / "data" / "prometheus" / "router_alerts_test.yml"),
        ("check", "config", PROMETHEUS / "prometheus.yml"),
        ("test", "rules", REPOSITORY / "tests" / "data" / "prometheus" / "alerts_test.yml"),
    ],
)
def test_promtool_finds_nothing(arguments: tuple[str, str, Path]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on this machine")
    done = subprocess.run([promtool, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
