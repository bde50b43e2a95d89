"""Text in a client's messages that no row can hold."""

from __future__ import annotations

import pytest

from server.stream.messages import CLIENT_MESSAGES
from server.stream.wire import InvalidMessageError

_INIT = {"type": "session_init_v2"}
_PROMPT = {"type": "segment_prompt_source", "prompt": "a fox"}


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize(
    ("message", "field"),
    [(_INIT, "client_id"), (_INIT, "preset"), (_INIT, "session_id"), (_PROMPT, "negative_prompt"), (_PROMPT, "prompt")],
)
def test_text_that_no_row_can_hold_is_turned_down_by_the_fields_name(
    message: dict[str, object], field: str, text: str
) -> None:
    with pytest.raises(InvalidMessageError, match=f"^{field}: "):
        CLIENT_MESSAGES.of({**message, field: text})
    CLIENT_MESSAGES.of({**message, field: "a"})
