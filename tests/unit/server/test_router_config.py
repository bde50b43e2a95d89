"""The router's file: the reference's keys and ours, and mistakes with their line, field, value and rule."""

from __future__ import annotations

import contextlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import InputError
from server.router.config import ReplicaEndpoint, RouterConfig, read_admin_key, read_config
from tests.conftest import REPOSITORY

MINIMAL = "router:\n  replicas:\n    - url: http://a:8000\n"


def read(text: str, folder: Path) -> RouterConfig:
    file = folder / "router.yaml"
    file.write_text(text, "utf-8")
    return read_config(file)


def refusal(text: str, folder: Path) -> list[str]:
    """Each mistake of a file, without the file's name."""
    with pytest.raises(InputError) as refused:
        read(text, folder)
    return [str(problem).removeprefix(f"{folder / 'router.yaml'}:") for problem in refused.value.problems]


def test_the_least_file_has_the_references_defaults(tmp_path: Path) -> None:
    config = read(MINIMAL, tmp_path)

    assert config.replicas == (ReplicaEndpoint("http://a:8000", name="replica-1"),)
    assert (config.host, config.port) == ("0.0.0.0", 9000)
    assert config.health_check_path == "/health"
    assert (config.health_check_interval_seconds, config.health_check_timeout_seconds) == (5.0, 2.0)
    assert (config.failure_threshold, config.recovery_threshold) == (3, 2)
    replica = config.replicas[0]
    assert (replica.name, replica.primary, replica.weight) == ("replica-1", False, 1.0)


def test_the_references_file_is_read(tmp_path: Path) -> None:
    config = read(
        """
router:
  host: 0.0.0.0
  port: 9100
  replicas:
    - url: http://streamer-a:8000
      primary: true
    - {url: "https://streamer-b:8443/", name: b, weight: 2}
  health_check:
    path: /healthz
    interval_seconds: 7
    timeout_seconds: 1.5
    failure_threshold: 4
    recovery_threshold: 1
""",
        tmp_path,
    )

    assert [each.url for each in config.replicas] == ["http://streamer-a:8000", "https://streamer-b:8443"]
    assert [each.primary for each in config.replicas] == [True, False]
    assert (config.replicas[1].name, config.replicas[1].weight) == ("b", 2.0)
    assert (config.port, config.health_check_path) == (9100, "/healthz")
    assert (config.health_check_interval_seconds, config.health_check_timeout_seconds) == (7.0, 1.5)
    assert (config.failure_threshold, config.recovery_threshold) == (4, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file has no mapping `router:`"),
        ("replicas: []\n", "1: the file has no mapping `router:`"),
        ("ruoter: {}\n", "did you mean 'router'?"),
        ("router: 7\n", "1: router: 7 must be a mapping"),
        ("router: {}\n", "1: router.replicas: must name at least one replica"),
        ("router:\n  replicas: a\n", "2: router.replicas: 'a' must be a list"),
        (MINIMAL + "  prot: 1\n", "4: router.prot: there is no such key: did you mean 'port'?"),
        (MINIMAL + "  health_check:\n    interval: 1\n", "5: router.health_check.interval: there is no such key"),
        (MINIMAL + "  health_check: 5\n", "4: router.health_check: 5 must be a mapping"),
        (MINIMAL + "serve: {}\n", "4: serve: there is no such key: the keys are: router"),
        (MINIMAL + "  port: 70000\n", "4: router.port: 70000 must be from 0 to 65535"),
        (MINIMAL + "  port: yes\n", "4: router.port: True must be a whole number"),
        (MINIMAL + "  port:\n", "4: router.port: None must be a whole number"),
        (MINIMAL + "  host: http://x\n", "4: router.host: 'http://x' must be a host name or an IP address"),
        (MINIMAL + "  drain_seconds: -1\n", "4: router.drain_seconds: -1 must be 0 or more"),
        (MINIMAL + "  drain_seconds: .nan\n", "4: router.drain_seconds: nan must be a number"),
        (MINIMAL + "  trusted_proxies: 10.0.0.1\n", "4: router.trusted_proxies: '10.0.0.1' must be a list"),
        (MINIMAL + "  trusted_proxies: [10.0.0.1/8]\n", "4: router.trusted_proxies: ['10.0.0.1/8'] must be a list"),
        (
            MINIMAL + "  health_check:\n    interval_seconds: 0\n",
            "5: router.health_check.interval_seconds: 0 must be gr",
        ),
        (
            MINIMAL + "  health_check:\n    timeout_seconds: -2\n",
            "5: router.health_check.timeout_seconds: -2 must be g",
        ),
        (
            MINIMAL + "  health_check:\n    failure_threshold: 0\n",
            "5: router.health_check.failure_threshold: 0 must be",
        ),
        (
            MINIMAL + "  health_check:\n    recovery_threshold: 1.5\n",
            "5: router.health_check.recovery_threshold: 1.5 mu",
        ),
        (MINIMAL + "  health_check:\n    path: health\n", "5: router.health_check.path: 'health' must be a path"),
        (MINIMAL + "      primary: 1\n", "4: router.replicas[0].primary: 1 must be true or false"),
        (MINIMAL + "      weight: 0\n", "4: router.replicas[0].weight: 0 must be greater than 0"),
        (MINIMAL + "      name: a/b\n", "4: router.replicas[0].name: 'a/b' must be of letters"),
        (MINIMAL + "      wieght: 1\n", "4: router.replicas[0].wieght: there is no such key: did you mean 'weight'?"),
        (MINIMAL + "    - name: b\n", "4: router.replicas[1].url: is missing"),
        (MINIMAL + "    - url: http://A:8000/\n", "4: router.replicas[1].url: 'http://a:8000' is given twice"),
        (
            MINIMAL + "    - {url: 'http://b', name: replica-1}\n",
            "4: router.replicas[1].name: 'replica-1' is given twi",
        ),
        (MINIMAL + "    - {url: 'http://b', name: 'a:8'}\n", "4: router.replicas[1].name: 'a:8' must be of letters"),
        (MINIMAL + f"      weight: 1{'0' * 400}\n", "4: router.replicas[0].weight: '1000"),
        ("router: [\n", "the configuration cannot be read: not YAML"),
        (MINIMAL + "  port: 1\n  port: 2\n", "5: the configuration cannot be read: 'port' is given twice"),
        (MINIMAL + "  host: !!python/name:os.system x\n", "4: the configuration cannot be read: tag"),
    ],
)
def test_a_mistake_is_told_with_its_line_field_value_and_rule(text: str, told: str, tmp_path: Path) -> None:
    mistakes = refusal(text, tmp_path)

    assert len(mistakes) == 1
    assert told in mistakes[0]


WRONG = (
    None,
    True,
    -1,
    0.5,
    10**400,
    float("inf"),
    "",
    " ",
    "x\n",
    "ü",
    "9" * 5000,
    [],
    [None],
    [[]],
    {},
    {"a": 1},
    {1: 2},
)
KEYS = (
    *((item.name,) for item in fields(RouterConfig) if not item.name.startswith("health_check")),
    *(("health_check", name) for name in ("path", "interval_seconds", "timeout_seconds", "failure_threshold")),
    *(("replicas", 0, item.name) for item in fields(ReplicaEndpoint)),
    *((), ("health_check",), ("replicas", 0), (1,), (None,)),
)
"""Places in a file; `failure_threshold` is one of both kinds, and wrong beside `health_check`."""


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_wrong_value_anywhere_is_told_or_used_and_breaks_nothing(key: tuple[Any, ...], tmp_path: Path) -> None:
    for value in WRONG:
        data: Any = {"router": {"replicas": [{"url": "http://a"}], "health_check": {}}}
        place = data
        *path, last = ("router", *key)
        for part in path:
            place = place[part]
        place[last] = value
        with contextlib.suppress(InputError):
            read(yaml.safe_dump(data), tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("http://a", "http://a:80"),
        ("https://a", "https://A:443/"),
        ("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000"),
        ("http://[2001:DB8::1]", "http://[2001:db8:0::1]:80/"),
    ],
)
def test_one_address_in_two_spellings_is_given_twice(first: str, second: str, tmp_path: Path) -> None:
    text = f"router:\n  replicas:\n    - url: {first}\n    - url: {second}\n"

    assert [mistake[:28] for mistake in refusal(text, tmp_path)] == ["4: router.replicas[1].url: '"]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://a",
            "a:8000",
            "http://",
            "http://a:0",
            "http://a:99999",
            "http://a:x",
            "http://[::1",
            "",
            "http://a b",
        ),
        *("http://a/api", "http://a?x=1", "http://a?", "http://a#", "http://user:word@a", "//a:8000", "http://a\\@b"),
        *("http://a,b", "http://a%2f", "http://[::1%25eth0]", "http://[1::2::3]", "http://[1.2.3.4]"),
    ],
)
def test_a_replicas_url_is_scheme_host_and_port_alone(url: str) -> None:
    with pytest.raises(ValueError, match=r"url: .*must be|url: .*must be text"):
        ReplicaEndpoint(url)


def test_two_primaries_are_refused(tmp_path: Path) -> None:
    text = MINIMAL + "      primary: true\n    - url: http://b\n      primary: true\n"

    assert refusal(text, tmp_path) == ["6: router.replicas[1].primary: at most one replica can be primary"]


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = "router:\n  port: x\n  replicas:\n    - url: ftp://a\n    - weight: -1\n  health_check: {path: 7}\n"

    assert [re.match(r"\d+: [^:]+", mistake)[0] for mistake in refusal(text, tmp_path)] == [  # type: ignore[index]
        "2: router.port",
        "6: router.health_check.path",
        "4: router.replicas[0].url",
        "5: router.replicas[1].weight",
    ]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"replicas": ()}, "replicas"),
        ({"health_check_interval_seconds": 0}, "health_check_interval_seconds"),
        ({"health_check_timeout_seconds": -1.0}, "health_check_timeout_seconds"),
        ({"failure_threshold": 0}, "failure_threshold"),
        ({"recovery_threshold": 0}, "recovery_threshold"),
        ({"replicas": (ReplicaEndpoint("http://a"), ReplicaEndpoint("http://a/"))}, "replicas"),
    ],
)
def test_a_configuration_made_in_python_keeps_the_same_rules(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        RouterConfig(**{"replicas": (ReplicaEndpoint("http://a"),), **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["", "short\n", "a key with blanks in it\n", "ключключключключ\n"])
def test_a_key_that_anybody_could_guess_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(content, "utf-8")

    with pytest.raises(InputError, match=r"router.admin_key_file: must hold one line of at least 16"):
        read_admin_key(file)


def test_a_keys_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n", "utf-8")

    config = read(MINIMAL + "  admin_key_file: key\n", tmp_path)

    assert config.admin_key_file is not None
    assert read_admin_key(config.admin_key_file) == "0123456789abcdef"
    with pytest.raises(InputError, match=r"router.admin_key_file: "):
        read_admin_key(tmp_path / "none")


def test_the_manuals_example_names_every_key(tmp_path: Path) -> None:
    manual = (REPOSITORY / "docs" / "router.md").read_text("utf-8")
    example = max(re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL), key=len)

    config = read(example, tmp_path)

    keys = {item.name for item in fields(RouterConfig)} | {item.name for item in fields(ReplicaEndpoint)}
    data = yaml.safe_load(example)["router"]
    checks = {
        f"health_check_{name}" if name in ("path", "interval_seconds", "timeout_seconds") else name
        for name in data.pop("health_check")
    }
    assert checks | {*data} | {key for replica in data["replicas"] for key in replica} == keys
    assert len(config.replicas) > 1
