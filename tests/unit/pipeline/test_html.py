"""The base of all pages: what strangers wrote stays text, whatever it holds."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from jinja2 import DictLoader, UndefinedError

from pipeline.html import STATIC, Card, environment

HOSTILE = (
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)" x="',
    "'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><svg onload=alert(1)>",
    "left \u202e thgir \u2066 apart \x00\x1b[31m \ud800",
)
_PAGE = '{% extends "base.html" %}{% from "card.html" import card %}{% block main %}{{ card(clip) }}{% endblock %}'


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.shape: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _page(text: str) -> str:
    clip = Card(
        id="b-000000", prompt=text, state="failed", seed=7, href="x", poster="p.webp", score=(text, 0.5),
        labels={text: text}, reason=text, command=text, missing=text,
    )  # fmt: skip
    return environment(DictLoader({"page": _PAGE})).get_template("page").render(title=text, clip=clip)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_changes_no_element_and_no_direction(text: str) -> None:
    hostile = _page(text)

    assert _Elements(hostile).shape == _Elements(_page("a fox")).shape
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x00\x1b") & set(hostile)
    hostile.encode()  # no lone surrogate either
    if text.isprintable():
        assert text in _Elements(hostile).text


def test_texts_of_all_scripts_stay_as_they_are() -> None:
    text = "لقطة\u200f שלום\u200e 狐狸 👩\u200d🚀 e\u0301"
    assert text in _Elements(_page(text)).text


def test_a_value_that_is_missing_is_an_error() -> None:
    page = environment(DictLoader({"page": "{{ nothing.here }}"})).get_template("page")
    with pytest.raises(UndefinedError, match="nothing"):
        page.render()


def test_the_shared_files_need_no_network_and_no_inline_code() -> None:
    for path in (*STATIC.iterdir(), *(STATIC.parent / "templates").iterdir()):
        text = path.read_text("utf-8")
        assert "://" not in text.replace("http://www.w3.org", ""), path
        assert not any(code in text for code in ("innerHTML", "eval(", " onclick", "|safe")), path
