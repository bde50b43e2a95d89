"""Wherever a URL holds a secret, and however that is written, nobody reads it."""

from __future__ import annotations

import io
import logging
import tomllib
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import redaction
from pipeline.errors import InputError, Problem, RetryableError, SettingsError
from pipeline.redaction import RedactingFormatter, redact, remember, shown_setting, shown_url
from tests.conftest import REPOSITORY

HEAD, TAIL = "S3cr", "3t-Z"
ODD = st.text(st.sampled_from("@/?#%:;,&=+[]!$*()~^ab1"), max_size=12)
"""What passwords are made of, and URLs give a meaning."""
PLACES: dict[str, str] = {
    "password": "redis://:{}@host:6379/0",
    "user and password": "postgresql+psycopg://vgen:{}@host:5432/vgen",
    "token as user": "https://{}@host/v1",
    "token before colon": "https://{}:x-oauth-basic@host/v1",
    "query": "postgresql+psycopg://host/vgen?user=vgen&password={}",
    "query after a user": "rediss://vgen:other@host/0?password={}&ssl_cert_reqs=required",
    "bare query": "https://host/v1?{}",
    "fragment": "https://user@host/v1#{}",
    "endpoint": "http://key:{}@127.0.0.1:9000",
    "storage": "s3://key:{}@bucket/prefix",
    "provider": "openai=https://u:{}@host/v1#model",
    "provider's query": "mine=https://host/v1?key={}",
    "failover": "redis://:a@one:1/0;redis://:{}@two:2/0",
    "failover, first": "sentinel://:{}@one:26379;sentinel://:b@two:26379",
    "several": "openai=https://u:{}@host/v1,cerebras=https://h/v1?k=x",
}


@pytest.fixture(autouse=True)
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("quoted", [False, True], ids=["plain", "percent-encoded"])
@given(middle=ODD)
def test_a_secret_in_any_place_of_a_url_is_masked(place: str, quoted: bool, middle: str) -> None:
    # Given a secret of any characters there
    secret = f"{HEAD}{middle}{TAIL}"
    url = PLACES[place].format(urllib.parse.quote(secret, safe="") if quoted else secret)

    # Then neither the setting as it is shown nor a message has a part of it
    for shown in (shown_setting(url), redact(f"cannot reach {url}"), redact(f"cannot reach {url!r}, is it there?")):
        assert HEAD not in shown
        assert TAIL not in shown
        assert url.partition("://")[0] in shown


@pytest.mark.parametrize(
    "address",
    [
        *("redis:/:{}@host:6379/0", "redis:://vgen:{}@host/0", "redis//vgen:{}@host/0", "redis:vgen:{}@host/0"),
        *(
            "vgen:{}@host/vgen",
            ":{}@host",
            "//vgen:{}@host/vgen",
            "redis ://vgen:{}@host/0",
            "s3:/key:{}@bucket/prefix",
        ),
        *("redis\uff1a//vgen:{}@host/0", "redis\uff1a//vgen\uff1a{}@host/0", "mine=http:/vgen:{}@host/v1"),
        *(r"redis:\\vgen:{}@host/0", "://vgen:{}@host", "postgresql+psycopg:vgen:{}@host/vgen"),
    ],
)
@settings(max_examples=20)
@given(middle=ODD.filter(lambda text: "://" not in text))
def test_a_secret_is_masked_where_the_scheme_is_misspelt(address: str, middle: str) -> None:
    """Such a setting is refused, and the message shows what was given."""
    given_text = address.format(f"{HEAD}{middle}{TAIL}")

    for shown in (shown_setting(given_text), redact(f"cannot reach {given_text!r}, is it there?")):
        assert HEAD not in shown
        assert TAIL not in shown


@given(middle=st.text(st.sampled_from("@/:; '\"<>|`ab"), max_size=12))
def test_a_secret_with_blanks_and_quotes_is_masked_where_it_is_known(middle: str) -> None:
    secret = f"{HEAD}{middle}{TAIL}"
    url = f"redis://:{secret}@host/0"
    remember({"broker_url": url, "s3": {"secret_access_key": f"{secret}2"}}, {"HF_TOKEN": f"{secret}3"})

    assert HEAD not in shown_setting(url)
    for text in (
        url,
        repr(secret),
        f"AUTH {secret} failed",
        urllib.parse.quote(secret, safe=""),
        f"{secret}2 {secret}3",
    ):
        assert HEAD not in redact(text), text


@pytest.mark.parametrize(
    "text",
    [
        "redis://host:6379/0", "https://api.openai.com/v1", "s3://bucket/prefix", "sqlite:////home/me/vgen.sqlite3",
        "max_tokens=256", "the token is missing", "line 3: a fox @ dawn", "postgresql+psycopg://host/db?sslmode=require",
        "VGEN_S3_ACCESS_KEY_ID is not set", "openai=https://host/v1", "a=b://c",
        "me@example.org", "worker celery@host: ready", "10:15:02 celery@host", "Basic usage", '{"name": "gpu@host"}',
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
    assert shown_setting(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "password=hidden",
        'requirepass = "hidden"',
        '{"secret_access_key": "hidden"}',
        "a&API_KEY=hidden)",
        "Authorization: Bearer hidden-hidden",
        "X-API-Key: vgen_sk_3f9k2m7q_hiddenhidden is refused",
        "{'Authorization': 'Basic hiddenhidden=='}",
    ],
)
def test_what_is_named_like_a_secret_is_masked(text: str) -> None:
    assert "hidden" not in redact(text)


@pytest.mark.parametrize("make", [RetryableError, SettingsError, InputError, lambda text: InputError([Problem(text)])])
def test_no_error_of_ours_holds_a_secret(make: Callable[[str], Exception]) -> None:
    assert "hidden" not in str(make("put x at http://key:hid/hidden@host: refused"))


def test_logs_and_their_tracebacks_hold_none() -> None:
    stream = io.StringIO()
    logger = logging.Logger("x")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter())
    logger.addHandler(handler)
    try:
        raise OSError("redis://:hid/hidden@host/0 is away")
    except OSError:
        logger.exception("no %s", "amqp://u:hid@hidden@h//")

    assert "away" in stream.getvalue()
    assert "hidden" not in stream.getvalue()


def logged(name: str, message: str, *args: object, **extra: object) -> str:
    record = logging.getLogger(name).makeRecord(name, logging.WARNING, "", 0, message, args, None, extra=extra)
    return RedactingFormatter(logging.Formatter("%(message)s")).format(record)


def test_logs_show_what_they_were_given_besides() -> None:
    shown = logged("server.x", "%s failed", "a 100% sure request", request_id="req_1", path="/a b\n/c", tries=2)

    assert shown == r"a 100% sure request failed request_id=req_1 path='/a b\n/c' tries=2"
    assert "hidden" not in logged("db.x", "away", reason="redis://:hid/hidden@host/0 is away", password="hidden")
    assert logged("celery.worker", "received", data={"args": "of a task"}) == "received"


def test_every_package_of_ours_is_known_to_the_logs() -> None:
    configured = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

    for package in configured["tool"]["importlinter"]["root_packages"]:
        assert logged(f"{package}.x", "away", tries=2) == "away tries=2"


def test_long_texts_take_linear_work() -> None:
    for part in ("a-", "a", "://", "redis://:", "password", "=", "@"):
        redact(part * 50_000 + "://")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:hidden@h/x.png?k=hidden#hidden", "https://h/x.png"),
        ("https://u:hid/hidden@h:8080/x.png", "https://h:8080/x.png"),
        ("https://u:hid?hidden@h/x.png", "https://h/x.png"),
        ("https://u:hid@hidden@h/x.png", "https://h/x.png"),
        ("https://h/@me/x.png", "https://h/@me/x.png"),
        ("http://[::1]:80/x.png", "http://[::1]:80/x.png"),
    ],
)
def test_a_url_of_an_input_is_shown_without_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown
