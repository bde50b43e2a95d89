"""Server-sent events: whatever the text, a client reads it as one event."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import event_stream
from server.auth import Caller
from server.event_stream import Reading, event


def data_of(message: str) -> str:
    """What a client reads as the event's data, by the rules of the HTML standard."""
    assert message.endswith("\n\n")
    lines = message[:-2].split("\n")
    return "\n".join(line[5:].removeprefix(" ") for line in lines if line.startswith("data:"))


@given(st.text())
def test_json_arrives_whole(text: str) -> None:
    assert json.loads(data_of(event(json.dumps(text, ensure_ascii=False)))) == text


@pytest.mark.parametrize(("text", "data"), [("a\nb\n", "a\nb"), ("a\r\nid: 7\rb", "a\nid: 7\nb"), ("", "")])
def test_no_text_ends_its_event(text: str, data: str) -> None:
    assert data_of(event(text)) == data


def test_an_event_has_its_name_and_its_place() -> None:
    assert event("x", name="done", place="1-2-3") == "id: 1-2-3\nevent: done\ndata: x\n\n"
    assert event("") == "data:\n\n"


def test_a_stream_with_much_to_tell_is_cut_off_when_its_key_is_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def holds(caller: Caller, _: object) -> bool:
        asked.append(caller.owner)
        return len(asked) < 3

    monkeypatch.setattr(event_stream, "still_holds", holds)
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.05)
    numbers = itertools.count()
    line: Any = SimpleNamespace(stopping=asyncio.Event())

    async def read() -> int:
        parts = event_stream._messages(lambda: Reading([event(str(next(numbers)))]), line, Caller("ada"), 0.01)
        return len([part async for part in parts])

    assert asyncio.run(asyncio.wait_for(read(), 30)) > 3
    assert asked == ["ada"] * 3
