"""The key of a request: in a header, once, never in the URL; whatever else headers hold is refused or is no key."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from pipeline.redaction import redact
from server.auth.caller import credential
from server.errors import ApiError
from server.this_machine import comes_from_this_machine, names_this_machine
from service import keys
from service.keys import KeyRefusedError

KEY = f"vgen_sk_abcd1234_{'0' * 64}"
OTHER = f"vgen_sk_abcd1234_{'1' * 64}"
_HEADER = st.text(st.characters(min_codepoint=0, max_codepoint=255, exclude_characters="\r\n\0"), max_size=90)


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in pairs])


@pytest.mark.parametrize(
    "pairs",
    [
        [("authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer  {KEY} ")],
        [("x-api-key", KEY)],
        [("x-api-key", KEY), ("authorization", f"BEARER {KEY}")],
        [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")],
    ],
)
def test_a_key_is_read_from_either_header(pairs: list[tuple[str, str]]) -> None:
    assert credential(headers(*pairs), "limit=1") == KEY


@pytest.mark.parametrize(
    ("pairs", "query", "said"),
    [
        ([("authorization", f"Basic {KEY}")], "", "not of the form"),
        ([("authorization", KEY)], "", "not of the form"),
        ([("authorization", "")], "", "not of the form"),
        ([("authorization", f"Bearer {KEY}"), ("x-api-key", OTHER)], "", "several different"),
        ([("x-api-key", KEY), ("x-api-key", OTHER)], "", "several different"),
        ([("authorization", f"Bearer {KEY}"), ("authorization", "Bearer")], "", "several different"),
        ([], f"key={KEY}", "not read from URLs"),
        ([("x-api-key", KEY)], f"a=1&api_key={KEY}", "not read from URLs"),
    ],
)
def test_what_is_given_in_another_way_is_refused(pairs: list[tuple[str, str]], query: str, said: str) -> None:
    with pytest.raises(ApiError, match=said) as refused:
        credential(headers(*pairs), query)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert redact(refused.value.message) == refused.value.message  # what it explains must not look like a secret


def test_without_either_header_none_is_given() -> None:
    assert credential(headers(("cookie", KEY)), "") is None


@given(st.lists(st.tuples(st.sampled_from(["authorization", "x-api-key", "cookie"]), _HEADER), max_size=4))
@example([("authorization", "Bearer")])
@example([("x-api-key", "")])
def test_any_headers_give_one_text_or_a_refusal(pairs: list[tuple[str, str]]) -> None:
    try:
        text = credential(headers(*pairs), "")
    except ApiError as error:
        text = {401: "refused"}[error.status]
    assert (text is None) == all(name == "cookie" for name, _ in pairs)


class _NoDatabase:
    """Nothing is looked up for a text that is not a key."""


@given(st.text(max_size=90) | st.from_regex(r"vgen_sk_[a-z0-9]{7,9}_[0-9a-f]{63,65}", fullmatch=True))
def test_only_the_form_of_a_key_is_looked_up(text: str) -> None:
    parts = text.split("_")
    is_key = (
        len(parts) == 4
        and parts[:2] == ["vgen", "sk"]
        and len(parts[2]) == 8
        and len(parts[3]) == 64
        and set(parts[2]) <= set(string.ascii_lowercase + string.digits)
        and set(parts[3]) <= set("0123456789abcdef")
    )
    with pytest.raises(AttributeError if is_key else KeyRefusedError):
        keys.verify(_NoDatabase(), text)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:80"])
def test_names_of_this_machine(host: str) -> None:
    assert names_this_machine(host)


@pytest.mark.parametrize(
    "host", ["", "example.org", "localhost.example.org", "127.0.0.1.nip.io", "[", "[::", "0.0.0.0", "10.0.0.1:80", "@"]
)
def test_other_names_are_not(host: str) -> None:
    assert not names_this_machine(host)


@pytest.mark.parametrize("clients", [[], ["127.0.0.1"], ["127.0.0.1, ::1"], ["::1", "127.0.0.1"]])
def test_what_a_proxy_forwards_for_this_machine_is_its_own(clients: list[str]) -> None:
    assert comes_from_this_machine(headers(*(("x-forwarded-for", each) for each in clients)))


@pytest.mark.parametrize("clients", [["10.0.0.1"], ["127.0.0.1, 10.0.0.1"], ["127.0.0.1", "2001:db8::1"], [""], ["?"]])
def test_what_a_proxy_forwards_for_others_is_not(clients: list[str]) -> None:
    assert not comes_from_this_machine(headers(*(("x-forwarded-for", each) for each in clients)))
