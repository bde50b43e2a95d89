"""docker-compose.yml and the Dockerfile as an engine would read them: variables filled in, nothing run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("vgen:")}
SECRETS = {
    name: f"{name.lower().replace('_', '-')}-of-a-test"
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "FLOWER_PASSWORD")
}
"""What a filled-in .env holds."""
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<rule>:[-?])(?P<rest>[^}]*))?\})")


def fill(value: Any, env: Mapping[str, str]) -> Any:
    """The value with ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` replaced, at any depth.

    Raises:
        ValueError: a variable that must be set is not, or a form that is not one of these.
    """
    if isinstance(value, dict):
        return {key: fill(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, env) for item in value]
    if not isinstance(value, str):
        return value
    if "$" in _VARIABLE.sub("", value):
        raise ValueError(f"{value!r} has a form of variable that is not understood here")

    def found(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        given = env.get(match["name"], "")
        if match["rule"] == ":?" and not given:
            raise ValueError(f"{match['name']}: {match['rest']}")
        return given or (match["rest"] if match["rule"] == ":-" else "")

    return _VARIABLE.sub(found, value)


def service(name: str, env: Mapping[str, str]) -> dict[str, Any]:
    """A service with everything filled in; variables without a value are taken from ``env``, or left out."""
    filled: dict[str, Any] = fill(SERVICES[name], env)
    given = filled.get("environment", {})
    filled["environment"] = {
        key: str(env[key] if value is None else value)
        for key, value in given.items()
        if value is not None or key in env
    }
    return filled


def image_environment() -> dict[str, str]:
    """What the Dockerfile's ENV lines set."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.removeprefix("ENV ") for line in text.splitlines() if line.startswith("ENV ")]
    return dict(part.split("=", 1) for line in lines for part in shlex.split(line))
