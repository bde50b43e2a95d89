"""docker-compose.yml against its schema and explicit rules, and its commands against the real command line.

No engine runs here; tests/integration/test_compose_commands.py runs the commands.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from cli.main import app
from cli.settings_reference import rows
from pipeline.settings import Settings, load_settings
from server.router.config import read_config
from tasks.hosts.supervisor import _KILL_AFTER_S
from tests import compose
from tests.compose import COMPOSE, OURS, ROOT, SECRETS, SERVICES

ONE_SHOT = {"migrate", "store-init", "cli"}
FIXED = {
    "VGEN_DATABASE_URL": "the file's own database, with the password of .env",
    "VGEN_BROKER_URL": "the file's own broker, with the password of .env",
    "VGEN_S3_ACCESS_KEY_ID": "S3_ACCESS_KEY_ID of .env, which the store gets too",
    "VGEN_S3_SECRET_ACCESS_KEY": "S3_SECRET_ACCESS_KEY of .env, which the store gets too",
    "VGEN_HANDOFF_DIR": "beside the shared memory that the file gives",
    "VGEN_HOME": "a folder of the image",
    "VGEN_CACHE_DIR": "a folder of the image, with a volume over it",
}
"""Settings that .env does not reach, and why."""


def variables(model: type[BaseModel] = Settings, prefix: str = "VGEN_") -> set[str]:
    """Every variable of the settings reference."""
    found = {variable for variable, *_ in rows(model, prefix)}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= variables(field.annotation, f"{prefix}{name.upper()}_")
    return found


# The whole file


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_file_fits_the_schema_of_compose() -> None:
    done = check_schema(ROOT / "docker-compose.yml")

    assert done.returncode == 0, done.stdout


def test_the_schema_refuses_a_file_that_is_wrong(tmp_path: Path) -> None:
    wrong = {**COMPOSE, "services": {**SERVICES, "beat": {**SERVICES["beat"], "restrat": "always"}}}
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(wrong), "utf-8")

    done = check_schema(tmp_path / "wrong.yml")

    assert done.returncode == 1
    assert "restrat" in done.stdout


def test_every_service_of_the_design_is_there() -> None:
    assert set(SERVICES) == {
        "postgres", "redis", "store-init", "store", "migrate", "dispatcher", "beat",
        "worker", "worker-gpu", "worker-gpu-on-cpu", "flower", "serve", "serve-b", "router", "cli",
    }  # fmt: skip


# Commands


def _commands() -> dict[str, list[str]]:
    """Every command line of vgen of the file: commands, and health checks that are one."""
    found = {name: [*service.get("entrypoint", []), *service["command"]] for name, service in OURS.items()}
    for name, service in OURS.items():
        kind, *test = service.get("healthcheck", {}).get("test", ["NONE"])
        if kind == "CMD" and test[0] == "vgen":
            found[f"{name}'s health check"] = test
    return found


@pytest.mark.parametrize("name", _commands())
def test_command_resolves(name: str) -> None:
    program, *arguments = _commands()[name]
    assert program == "vgen"  # `celery -A tasks.app` would import from the current folder
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and arguments[0] != "--help":
        assert arguments[0] in command.commands, arguments
        command = command.commands[arguments.pop(0)]
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    assert given <= known | {"--help"}


@pytest.mark.parametrize("name", [name for name in OURS if name not in ONE_SHOT])
def test_a_service_that_stays_is_watched_and_started_again(name: str) -> None:
    service = OURS[name]

    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert set(service["healthcheck"]) >= {"interval", "timeout", "retries", "start_period"}
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("worker")])
def test_a_workers_health_check_asks_for_the_workers_that_its_command_starts(name: str) -> None:
    test = OURS[name]["healthcheck"]["test"]

    assert test == ["CMD", "vgen", "health", *OURS[name]["command"][1:]]


@pytest.mark.parametrize("name", sorted(ONE_SHOT))
def test_what_runs_once_is_not_started_again(name: str) -> None:
    assert SERVICES[name]["restart"] == "no"


def test_a_stopping_worker_has_time_to_give_back_its_work() -> None:
    seconds = {int(compose.service(name, SECRETS)["stop_grace_period"].removesuffix("s")) for name in OURS}

    assert min(seconds) > load_settings().worker.grace_s + _KILL_AFTER_S


# Secrets and ports


def test_no_secret_has_a_default_and_each_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    example = (ROOT / ".env.example").read_text("utf-8")
    used = set(re.findall(r"\$\{(\w*(?:PASSWORD|KEY)\w*)", text))

    assert used == set(SECRETS)
    for name in used:
        assert re.search(rf"^{name}=$", example, re.MULTILINE)
        assert re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert all(rule.startswith(":?") for rule in re.findall(rf"\$\{{{name}([^}}]*)\}}", text))
        with pytest.raises(ValueError, match=f"{name}: set it in .env"):
            compose.fill(COMPOSE, {**SECRETS, name: ""})


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_for_this_host_only(name: str) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in SERVICES[name].get("ports", []))


# How services stand to one another


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
def test_volumes_are_declared_or_folders_of_the_host_that_can_only_be_read(name: str) -> None:
    for volume in compose.service(name, SECRETS).get("volumes", []):
        source, _, rest = volume.partition(":")
        assert source in COMPOSE["volumes"] or (source.startswith("./") and rest.endswith(":ro")), volume


def test_named_volumes_of_ours_belong_to_the_images_user() -> None:
    made = re.findall(r"install -d -o vgen -g vgen (.*)", (ROOT / "Dockerfile").read_text("utf-8"))[0].split()
    targets = {
        volume.split(":")[1]
        for service in OURS.values()
        for volume in service["volumes"]
        if volume.split(":")[0] in COMPOSE["volumes"]
    }

    assert targets == set(made)


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("worker") or name == "cli"])
def test_models_and_classifiers_of_the_host_are_in_every_container_that_works(name: str) -> None:
    assert "./models:/models:ro" in compose.service(name, SECRETS)["volumes"]


def test_redis_keeps_messages() -> None:
    _, _, script = SERVICES["redis"]["command"]
    assert "--appendonly yes" in script
    assert "--maxmemory-policy noeviction" in script


# What a container may do


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", [])) <= ({"CHOWN", "DAC_OVERRIDE"} if name == "store-init" else set())
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    if not name.startswith(("worker", "serve", "cli")):  # they keep large temporary files
        assert service["read_only"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_an_argument(name: str) -> None:
    """Every user of the host can read the arguments of a container's processes."""
    service = compose.service(name, SECRETS)
    words = [
        *service.get("entrypoint", []),
        *service.get("command", []),
        *service.get("healthcheck", {}).get("test", []),
    ]

    assert not [word for word in words for secret in SECRETS.values() if secret in word]


def test_vgens_role_is_no_superuser() -> None:
    assert "POSTGRES_USER" not in SERVICES["postgres"]["environment"]  # the image makes that one a superuser
    assert "./compose/role.sh:/docker-entrypoint-initdb.d/role.sh:ro" in SERVICES["postgres"]["volumes"]
    assert "NOSUPERUSER" in (ROOT / "compose" / "role.sh").read_text("utf-8")


def test_the_image_names_no_index() -> None:
    assert "://" not in (ROOT / "Dockerfile").read_text("utf-8")


def test_gpu_worker_has_the_gpu_the_encoder_and_shared_memory() -> None:
    worker = compose.service("worker-gpu", SECRETS)
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]

    assert (device["driver"], worker["profiles"]) == ("nvidia", ["gpu"])
    assert {"gpu", "video"} <= set(device["capabilities"])  # video: NVENC
    assert {"--gpu", "--cpu"} <= set(worker["command"])
    assert worker["environment"]["VGEN_HANDOFF_DIR"].startswith("/dev/shm/")
    assert int(worker["shm_size"].removesuffix("gb")) * 1024**3 > load_settings().handoff_bytes
    assert "deploy" not in SERVICES["worker-gpu-on-cpu"]


# Settings


@pytest.mark.parametrize("name", sorted({*OURS} - {"router"}))  # it reads its own file, and knows no secret
def test_every_setting_reaches_every_container(name: str) -> None:
    # Given a .env that sets every setting of the reference
    given = {variable: f"value of {variable}" for variable in variables()}

    reached = compose.service(name, {**SECRETS, **given})["environment"]

    # Then each is in the container, but for those that the file or the image decides
    missing = {variable for variable, value in given.items() if reached.get(variable) != value}
    assert missing == set(FIXED), "name a new setting in docker-compose.yml's x-environment, or in FIXED"


def test_what_is_decided_by_file_or_image_is_set() -> None:
    found = {**compose.image_environment(), **compose.service("worker-gpu", SECRETS)["environment"]}

    assert set(FIXED) <= set(found)


@pytest.mark.parametrize("name", OURS)
def test_settings_in_the_environment_are_real(name: str) -> None:
    ours = {variable for variable in OURS[name]["environment"] if variable.startswith("VGEN_")}

    assert ours - {"VGEN_FLOWER_BASIC_AUTH"} <= variables()


def test_the_router_knows_no_secret_and_its_replicas_are_services() -> None:
    router = compose.service("router", SECRETS)
    (mount,) = router["volumes"]
    config = read_config(ROOT / mount.partition(":")[0] / Path(router["command"][-1]).name)
    health_checks = [" ".join(SERVICES[name]["healthcheck"]["test"]) for name in ("serve", "serve-b")]

    assert not [value for value in router["environment"].values() for secret in SECRETS.values() if secret in value]
    assert [each.url for each in config.replicas] == ["http://serve:8000", "http://serve-b:8000"]
    assert all(f"127.0.0.1:8000{config.health_check_path}" in check for check in health_checks)
    assert router["ports"][0].endswith(f":{config.port}")
    assert int(router["stop_grace_period"].removesuffix("s")) > config.drain_seconds


# The image


def test_image_runs_as_a_user_and_takes_the_torch_build() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]

    assert users[-1] == "vgen"
    assert any(line.startswith("FROM python:3.11-") for line in lines)
    assert any(line.startswith("ARG TORCH=") for line in lines)
    assert OURS["worker"]["image"] == "vgen:${TORCH:-cpu}"


def test_build_context_has_what_the_image_copies() -> None:
    first, *rest = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in rest if line.startswith("!")}

    assert first == "*"
    assert allowed >= {
        "vgen",
        "cli",
        "db",
        "migrations",
        "pipeline",
        "server",
        "service",
        "tasks",
        "pyproject.toml",
        "constraints.txt",
    }
    assert all((ROOT / name).exists() for name in allowed)
