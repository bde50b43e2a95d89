"""The text in a chat completion, or why there is none to use."""

import json
from typing import Any

_WHOLE = frozenset({"", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete"})
"""Finish reasons of an answer that the model ended itself, in lower case; servers have names of their own for it."""
_CUT = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
_THINKING_PARTS = frozenset({"thinking", "reasoning", "redacted_thinking", "reasoning_content"})
_TEXT_PARTS = frozenset({"text", "output_text"})
_SHOWN_CHARACTERS = 80


class UnusableAnswerError(Exception):
    """The answer is not a prompt, or not certainly one; the message is the reason. Another try may be better."""


class CutAnswerError(UnusableAnswerError):
    """The answer ended at the limit of tokens. More of them may help."""


def text_of(body: bytes, *, token_limit: int | None) -> str:
    """The text of the first choice; ``token_limit`` is what the server was asked to keep to.

    Raises:
        CutAnswerError: the limit of tokens ended the answer.
        UnusableAnswerError: no JSON, an error, no text, a refusal, a call of a tool, an unknown finish reason.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise UnusableAnswerError("answer is not JSON") from None
    if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
        raise UnusableAnswerError(f"answer is an error: {excerpt(_message(answer['error']))}")
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content = message["content"] if "content" in message or "refusal" not in message else None
    except (KeyError, IndexError, TypeError):
        raise UnusableAnswerError("answer has no choices[0].message.content") from None
    _require_whole(choice, answer.get("usage"), token_limit)
    return _text(message, content)


def excerpt(text: str) -> str:
    """The beginning of a text, fit for a message."""
    printable = "".join(mark if mark.isprintable() else " " for mark in text[: 2 * _SHOWN_CHARACTERS])
    printable = " ".join(printable.split())
    return printable if len(printable) <= _SHOWN_CHARACTERS else f"{printable[:_SHOWN_CHARACTERS]}…"


def _require_whole(choice: dict[str, Any], usage: Any, token_limit: int | None) -> None:
    reason = choice.get("finish_reason")
    finish = "" if reason is None else reason.strip().lower() if isinstance(reason, str) else None
    if finish in _CUT:
        raise CutAnswerError(_cut_reason(token_limit))
    if finish not in _WHOLE:
        raise UnusableAnswerError(f"answer did not end by itself: its finish_reason is {excerpt(str(reason))!r}")
    spent = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if not finish and token_limit is not None and isinstance(spent, int) and spent >= token_limit:
        raise CutAnswerError(_cut_reason(token_limit))


def _cut_reason(token_limit: int | None) -> str:
    limit = "the model's limit" if token_limit is None else f"{token_limit} tokens, thinking included"
    return f"answer was cut at {limit} (VGEN_ENHANCE_MAX_TOKENS is the requested limit)"


def _text(message: dict[str, Any], content: Any) -> str:
    refusal = message.get("refusal")
    if refusal:
        raise UnusableAnswerError(f"the model refused: {excerpt(str(refusal))}")
    if message.get("tool_calls") or message.get("function_call"):
        raise UnusableAnswerError("answer calls a tool, but no tool was offered")
    text = _joined(content) if isinstance(content, list) else content
    if text is not None and not isinstance(text, str):
        raise UnusableAnswerError(f"answer has content of an unknown form ({type(text).__name__})")
    if not text or not text.strip():
        thought = any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
        raise UnusableAnswerError("answer is empty" + (": the model only thought" if thought else ""))
    return text


def _joined(parts: list[Any]) -> str:
    """The text parts in one; what the model thought is left out."""
    texts: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _THINKING_PARTS:
            continue
        if kind == "refusal":
            raise UnusableAnswerError(f"the model refused: {excerpt(str(part.get('refusal', '')))}")
        text = part.get("text") if kind in _TEXT_PARTS else None
        if not isinstance(text, str):
            raise UnusableAnswerError("answer is empty or has content of an unknown form (a part without text)")
        ends_a_sentence = bool(texts) and texts[-1][-1:] in tuple(".!?…") and not text[:1].isspace()
        texts.append(f" {text}" if ends_a_sentence else text)
    return "".join(texts)


def _message(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message", "")
    text = error if isinstance(error, str) else "without a message"
    return "(its message speaks of a key)" if "key" in text.lower() else text
