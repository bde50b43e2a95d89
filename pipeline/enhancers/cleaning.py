"""Read prompts from a language model's answer. Text that is not certainly a prompt is refused, never guessed."""

import re
import unicodedata
import zlib

from pipeline.enhancers.chat_answer import UnusableAnswerError, excerpt
from pipeline.enhancers.phrases import (
    ABOUT_THE_PROMPT,
    ADDRESS,
    AFTERWORD,
    CHAT,
    REFUSAL,
    REFUSAL_ANYWHERE,
    REFUSAL_ELSEWHERE,
)
from pipeline.enhancers.thinking import without_thinking
from pipeline.enhancers.wrappings import unwrapped

MAX_PROMPT_CHARACTERS = 32_768
"""Longer answers are refused: no text encoder reads a fraction of it, and it would sit in a row for ever."""

_LOOP_BYTES, _LOOP_RATIO = 300, 6
"""Descriptions compress to half or a third of their length, loops to a tenth and less."""

_CONTROLS = {"Cc", "Zl", "Zp"}
"""Control characters and line separators; joiners and direction marks stay, for emoji and right-to-left text."""

_LIST_MARK = re.compile(r"\A(?:[-*•–‣◦▪]\s+|\(?\d{1,3}[.):]\s+|[①-⑳]\s*)")
_LETTERED = re.compile(r"\(?(?:[a-hA-H]|[ivxIVX]{1,4})[.)]\s")
_OPTION = re.compile(
    r"\A\W*\b(?:option|version|alternative|variation|variant|choice|prompt|rewrite)\s*(?:#\s*)?(?:\d{1,2}|[a-e]|one|two|three)\b"
    r"[\s*_)\]]{0,4}[:.)–—-][\s*_)\]]{0,4}",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"[^\w\n]{0,4}[^\W\d_][\w /&-]{0,30}[:：]\W")
_OR = re.compile(r"\W*(?:or|alternatively|another option)\b\W*\Z|alternatively,", re.IGNORECASE)
_REMAINS = re.compile(
    r"<\||\|>|</?[A-Za-z][\w-]{0,30}(?:\s[^<>]{0,200})?/?>|&(?:[lg]t|amp|quot|apos|nbsp|#\d{1,6});|<0x[0-9A-F]{2}>|"
    r"\A\||\\[a-z]{2,12}\{|\[TOOL_CALLS\]|TOOL_CALLS|[▁\ufffd]|"
    r"(?:\[\d{1,2}\]){2}|【[^】]{0,20}†|\A\w{1,30}\(\s*[\"']|\A\w{1,30} = [\"']|\"{2}|"
    r"`{3}|~{3}|\[/?(?:INST|THINK)\]|◁/?think▷|"
    r"\{\{|\}\}|\]\([^)\s]{1,300}\)|\[(?:insert|your|placeholder|describe|add)\b[^\]\n]{0,100}\]",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"<\|[^|>\n]{0,40}\|>|</s>|<(?:end|start)_of_turn>|\[/?INST\]", re.IGNORECASE)
_WHOLE_IN_BRACKETS = re.compile(r"\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>")


def prompt_in(text: str, *, original: str = "") -> str:
    """The one prompt that an answer to ``original`` holds, in one line.

    Raises:
        UnusableAnswerError: a refusal, thoughts alone, several prompts, or anything that is not certainly a prompt.
    """
    lines = _lines(_answer(text))
    if len(lines) > 1 and lines[0].endswith((":", "：")):
        raise UnusableAnswerError(f"answer begins with an unknown introduction: {excerpt(lines[0])}")
    _require_one(lines)
    prompt = " ".join(lines)
    for _ in range(3):
        inner = " ".join(unwrapped(_LIST_MARK.sub("", prompt, count=1)).split())
        if inner == prompt:
            return _checked(prompt, original)
        prompt = inner
        _require_one([prompt])
    raise UnusableAnswerError(f"answer is wrapped too often: {excerpt(prompt)}")


def alternatives_in(text: str, *, original: str = "") -> list[str]:
    """The prompts that an answer holds, one a line, without bullets, numbers and repetitions.

    Raises:
        UnusableAnswerError: as in ``prompt_in``; one line that is not a prompt is enough.
    """
    return list(dict.fromkeys(_prompts_in(text, original)))


def window_in(text: str, count: int, *, original: str = "") -> list[str]:
    """The so many prompts of successive segments that an answer holds, one a line; two may be alike.

    Raises:
        UnusableAnswerError: as in ``alternatives_in``, or there are more or fewer.
    """
    prompts = _prompts_in(text, original)
    if len(prompts) != count:
        raise UnusableAnswerError(f"answer has {len(prompts)} prompts, and {count} were asked for")
    return prompts


def _prompts_in(text: str, original: str) -> list[str]:
    lines = _lines(_answer(text))
    if len(lines) > 1 and lines[0].endswith((":", "：")):
        del lines[0]
    prompts = (_OPTION.sub("", _LIST_MARK.sub("", line, count=1), count=1) for line in lines if not _is_separator(line))
    return [_checked(unwrapped(prompt), original) for prompt in prompts] or [_checked("", original)]


def _answer(text: str) -> str:
    """The lines of the answer without thinking and wrappings.

    They are made for texts of a prompt's size, so what is much longer is refused before.
    """
    text = without_thinking(_plain(text))
    if len(text) > 2 * MAX_PROMPT_CHARACTERS:
        raise UnusableAnswerError(_size(text))
    text = unwrapped(text)
    token = _TOKEN.search(text)
    if token:
        raise UnusableAnswerError(f"answer goes on after its end: {excerpt(text[token.start() :])}")
    return text


def _require_one(lines: list[str]) -> None:
    """Refuse what is several prompts, or one in parts that belong together in a way that is not known."""
    marked = [line for line in lines if _LIST_MARK.match(line)]
    if len(marked) > 1 or (marked and marked[0] is not lines[0]):
        raise UnusableAnswerError(f"answer is a list of {len(lines)} lines, and one prompt was requested")
    if marked and re.search(r"\s\(?2[.):]\s", " ".join(lines)):
        raise UnusableAnswerError(f"answer is a numbered list, and one prompt was requested: {excerpt(lines[0])}")
    if sum(_LETTERED.match(line) is not None for line in lines) > 1:
        raise UnusableAnswerError(f"answer is a list of {len(lines)} lines, and one prompt was requested")
    options = [line for line in lines if _OPTION.match(line) or _OR.match(line)]
    if options:
        raise UnusableAnswerError(f"answer holds several prompts: {excerpt(options[0])}")
    headings = [line for line in lines if re.match(r"#{1,6} |\|.*\|\Z", line)]
    labelled = [line for line in lines if _LABELLED.match(line)]
    if headings or len(labelled) > 1:
        raise UnusableAnswerError(f"answer is in parts with headings: {excerpt((headings or labelled)[0])}")


def _plain(text: str) -> str:
    """The text without control characters, lone surrogates and runs of blanks; its lines stay."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(" " if mark != "\n" and unicodedata.category(mark) in _CONTROLS else mark for mark in text)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _lines(text: str) -> list[str]:
    return [stripped for line in text.split("\n") if (stripped := " ".join(line.split()))]


def _is_separator(line: str) -> bool:
    return not any(mark.isalnum() for mark in line) or _OR.match(line) is not None


def _checked(prompt: str, original: str) -> str:
    if not prompt or len(prompt) > MAX_PROMPT_CHARACTERS:
        raise UnusableAnswerError(_size(prompt))
    if not any(mark.isalpha() for mark in prompt):
        raise UnusableAnswerError(f"answer holds no word: {excerpt(prompt)}")
    if prompt.endswith((":", "：")):
        raise UnusableAnswerError(f"answer ends before what it announces: {excerpt(prompt)}")
    if REFUSAL.match(prompt) or REFUSAL_ELSEWHERE.match(prompt) or REFUSAL_ANYWHERE.search(prompt):
        raise UnusableAnswerError(f"the model refused: {excerpt(prompt)}")
    if (
        CHAT.match(prompt)
        or ADDRESS.match(prompt)
        or ("prompt" not in original.lower() and ABOUT_THE_PROMPT.search(prompt))
    ):
        raise UnusableAnswerError(f"answer speaks about the prompt instead of being one: {excerpt(prompt)}")
    afterword = AFTERWORD.search(prompt)
    if afterword:
        raise UnusableAnswerError(f"answer goes on after the prompt: {excerpt(afterword[0])}")
    if _repeats(prompt):
        raise UnusableAnswerError(f"answer repeats itself: {excerpt(prompt)}")
    remains = _REMAINS.search(prompt)
    if remains or _WHOLE_IN_BRACKETS.fullmatch(prompt):
        mark = remains[0] if remains else prompt
        raise UnusableAnswerError(f"answer has markup that does not belong to a prompt: {excerpt(mark)}")
    return prompt


def _repeats(prompt: str) -> bool:
    """Whether a model was caught in a loop: a text of some length that is a fraction of it when it is compressed."""
    data = prompt.encode()
    return len(data) > _LOOP_BYTES and len(zlib.compress(data)) * _LOOP_RATIO < len(data)


def _size(prompt: str) -> str:
    return f"prompt of {len(prompt)} characters; 1 to {MAX_PROMPT_CHARACTERS} are allowed"
