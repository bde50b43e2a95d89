"""Takes what a model thought out of what it answers."""

import re

from pipeline.enhancers.chat_answer import UnusableAnswerError

_NAMES = (
    r"(?:\w{1,20}:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis|inner_monologue|planning|"
    r"chain[_-]?of[_-]?thought|reasoning_content)"
)
_TOKENS = r"begin_of_thought|end_of_thought|START_THINKING|END_THINKING|begin_of_thinking|end_of_thinking"
_MARK = re.compile(
    rf"(?P<xml><\s{{0,3}}(?P<slash>/?)\s{{0,3}}{_NAMES}(?:\s[^<>]*)?(?P<empty>/?)>)"
    rf"|(?P<bracket>\[(?P<bracket_slash>/?)THINK(?:ING)?\])"
    rf"|(?P<triangle>◁(?P<triangle_slash>/?)think▷)"
    rf"|(?P<token><\|(?P<token_name>{_TOKENS})\|>)",
    re.IGNORECASE,
)
"""The marks of DeepSeek, Qwen, Seed, Magistral, Kimi, Command and models with XML tags; any closes any."""

_CHANNEL = re.compile(r"<\|\s{0,3}(start|channel|message|constrain|end|return|call)\s{0,3}\|>")
_FINAL_WITHOUT_MARKS = re.compile(r"assistant\s{0,3}final(?=\W|[A-Z])")
_ANALYSIS_WITHOUT_MARKS = re.compile(r"\s{0,9}(?:assistant)?(?:analysis|commentary)(?=[A-Z])")


def without_thinking(text: str) -> str:
    """The answer itself.

    Raises:
        UnusableAnswerError: the thinking does not end, or there is no final channel.
    """
    if _CHANNEL.search(text):
        text = _final_channel(text)
    elif _ANALYSIS_WITHOUT_MARKS.match(text):
        *before, final = _FINAL_WITHOUT_MARKS.split(text)
        if not before:
            raise UnusableAnswerError("the model only thought: there is no final answer")
        text = final
    return _outside_marks(text)


def _final_channel(text: str) -> str:
    """The content of the last message on OpenAI's channel ``final``, by the Harmony format's marks."""
    pieces = _CHANNEL.split(text)  # text, mark, text, mark, …
    header, finals = "", []
    for mark, content in zip(["start", *pieces[1::2]], pieces[::2], strict=True):
        if mark == "message":
            if re.search(r"\bfinal\b", header):
                finals.append(content)
            header = ""
        elif mark in ("start", "channel", "constrain"):
            header += f" {content}"
        elif content.strip():
            raise UnusableAnswerError("answer has text outside its channels")
    if not finals:
        raise UnusableAnswerError("the model only thought: there is no final answer")
    return finals[-1]


def _outside_marks(text: str) -> str:
    """Return the text outside pairs of marks; all before a closing mark without an opening one was thought."""
    answer_parts: list[str] = []
    depth, position = 0, 0
    for mark in _MARK.finditer(text):
        if depth == 0:
            answer_parts.append(text[position : mark.start()])
        position = mark.end()
        if mark["empty"]:
            continue
        if _closes(mark):
            if depth == 0:
                answer_parts.clear()
            depth = max(0, depth - 1)
        else:
            depth += 1
    if depth:
        raise UnusableAnswerError("the model's thinking does not end")
    answer_parts.append(text[position:])
    return " ".join(part for part in answer_parts if part.strip()) if position else text


def _closes(mark: re.Match[str]) -> bool:
    name = (mark["token_name"] or "").lower()
    return bool(mark["slash"] or mark["bracket_slash"] or mark["triangle_slash"] or name.startswith("end"))
