"""docker-compose.yml against explicit rules, and its commands against the real command line.

The file was also checked by hand against the compose specification's JSON schema; no engine runs here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cli.main import app
from pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "vgen:local"}
ONE_SHOT = {"migrate", "store-init"}


def test_every_service_of_the_design_is_there() -> None:
    assert set(SERVICES) == {
        "postgres", "redis", "store-init", "store", "migrate", "dispatcher", "beat",
        "worker", "worker-gpu", "worker-gpu-on-cpu", "flower",
    }  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_command_resolves(name: str) -> None:
    program, *arguments = OURS[name]["command"]
    if program == "celery":
        from celery.bin.celery import celery  # noqa: PLC0415

        command: Any = celery
        assert arguments[:2] == ["-A", "tasks"]
        arguments = arguments[2:]
    else:
        assert program == "vgen"
        command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert arguments[0] in command.commands, arguments
        command = command.commands[arguments.pop(0)]
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    assert given <= known


def test_no_secret_has_a_default_and_each_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    example = (ROOT / ".env.example").read_text("utf-8")
    used = set(re.findall(r"\$\{(\w*(?:PASSWORD|KEY)\w*)", text))

    assert used == {
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "S3_ACCESS_KEY_ID",
        "S3_SECRET_ACCESS_KEY",
        "FLOWER_PASSWORD",
    }
    for name in used:
        assert re.search(rf"^{name}=$", example, re.MULTILINE)
        assert re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert all(rule.startswith(":?") for rule in re.findall(rf"\$\{{{name}([^}}]*)\}}", text))


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_for_this_host_only(name: str) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_exist_and_wait_for_what_they_can_reach(name: str) -> None:
    for other, rule in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert rule["condition"] == wanted
        assert other in ONE_SHOT or "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OURS) - {"store-init"}))
def test_third_party_services_are_pinned_healthy_and_not_root(name: str) -> None:
    service = SERVICES[name]

    assert re.search(r":\d", service["image"])
    assert service["healthcheck"]["test"]
    assert service["user"].split(":")[0] not in ("root", "0")
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_named_volumes_are_declared(name: str) -> None:
    sources = {volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])}
    assert sources <= set(COMPOSE["volumes"])


def test_redis_keeps_messages() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_gpu_worker_has_the_gpu_the_encoder_and_shared_memory() -> None:
    worker = SERVICES["worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]

    assert (device["driver"], device["capabilities"], worker["profiles"]) == ("nvidia", ["gpu"], ["gpu"])
    assert {"--gpu", "--cpu"} <= set(worker["command"])
    assert worker["shm_size"]
    assert worker["environment"]["VGEN_HANDOFF_DIR"].startswith("/dev/shm/")
    assert "deploy" not in SERVICES["worker-gpu-on-cpu"]


def test_settings_in_the_environment_are_real() -> None:
    groups = {"s3", "encode", "enhance", "safety", "worker"}
    for name in OURS["worker"]["environment"]:
        if not name.startswith("VGEN_"):
            continue
        field = name.removeprefix("VGEN_").lower()
        group, _, inner = field.partition("_")
        fields = Settings.model_fields
        if group in groups and field not in fields:
            assert inner in fields[group].annotation.model_fields, name  # type: ignore[union-attr]
        else:
            assert field in fields, name


def test_image_runs_as_a_user_and_takes_the_torch_build() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]

    assert users[-1] == "vgen"
    assert "FROM python:3.11-slim" in lines
    assert any(line.startswith("ARG TORCH=") for line in lines)


def test_build_context_has_what_the_image_copies() -> None:
    allowed = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert allowed[0] == "*"
    for name in ("cli", "db", "migrations", "pipeline", "tasks", "pyproject.toml", "constraints.txt"):
        assert f"!{name}" in allowed
        assert (ROOT / name).exists()
