"""Takes off what a model puts around a prompt: fences, quotes, headings, JSON, a sentence before and after."""

import json
import re
from typing import Any

from pipeline.enhancers.chat_answer import UnusableAnswerError, excerpt
from pipeline.enhancers.phrases import CLOSING, INTERJECTION, INTRODUCTION, LABEL, NOTES

_ROUNDS = 8
"""Wrappings lie in each other: a preamble before a fence around JSON around quotation marks."""

_PROMPT_KEYS = frozenset({
    "prompt", "enhanced_prompt", "enhancedprompt", "improved_prompt", "rewritten_prompt", "revised_prompt",
    "video_prompt", "final_prompt", "new_prompt", "next_prompt", "positive_prompt", "text", "output", "result",
    "answer", "response", "content", "description", "final", "enhanced", "improved", "rewritten", "scene",
    "scene_description", "caption", "paragraph",
})  # fmt: skip
"""Names that models give to the prompt in a JSON object."""
_DROPPED_KEYS = frozenset({
    "thinking", "thought", "thoughts", "reasoning", "explanation", "analysis", "rationale", "notes", "note", "original",
    "original_prompt", "input", "language", "word_count", "words",
})  # fmt: skip
"""Names of fields that are about the prompt and do not belong to it."""
_QUOTES = {
    '"': '"',
    "“": "”",
    "„": "“”",
    "«": "»",
    "»": "«",
    "‹": "›",
    "「": "」",
    "『": "』",
    "‘": "’",
    "'": "'",
    "`": "`",
}
_FENCE = re.compile(
    r"^[ \t]*(?P<mark>`{3,}+|~{3,}+)[^\n`]*+\n(?P<inside>.*?)\n?^[ \t]*(?P=mark)[ \t]*$", re.DOTALL | re.MULTILINE
)
_INLINE_FENCE = re.compile(r"\s*`{3,}(?P<inside>[^`\n]+)`{3,}\s*")
_START_TOKENS = re.compile(
    r"^\s*(?:<s>|<\|(?:im_start|start_header_id|begin_of_text|assistant|bot|START_OF_TURN_TOKEN|CHATBOT_TOKEN)\|>|"
    r"<start_of_turn>|\[/INST\]|<\|end_header_id\|>)(?:\s*(?:assistant|model)\b(?=\s*\n|<))?\s*",
    re.IGNORECASE,
)
_END_TOKENS = re.compile(
    r"\s*(?:</s>|<\|(?:im_end|endoftext|eot_id|eom_id|end|return|end_of_text|eos|END_OF_TURN_TOKEN|END_RESPONSE)\|>|"
    r"<end_of_turn>|<eos>|<｜end▁of▁sentence｜>|\[EOS\])\s*$",
    re.IGNORECASE,
)
_ANSWER_TAGS = re.compile(
    r"\s*<(?P<tag>answer|prompt|response|output|result|final|final_answer|text|p|div|span|"
    r"(?:enhanced|improved|rewritten|video|final|new)[_-]prompt)>(?P<inside>.*)</(?P=tag)>\s*",
    re.DOTALL | re.IGNORECASE,
)
_HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+(?P<title>[^\n]*)(?:\n|$)")
_RULE = re.compile(r"[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*")
_QUOTED_LINE = re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE)
_BOLD = re.compile(r"(\*\*\*|\*\*|__)(?=\S)(?P<inside>[^*\n]{0,500}?\S)\1")
_ITALIC = re.compile(r"(?<![*\w])\*(?=[^\s*])(?P<inside>[^*\n]{0,300}?[^\s*])\*(?![*\w])")


def unwrapped(text: str) -> str:
    """The text inside all its wrappings; several lines, where it has them.

    Raises:
        UnusableAnswerError: a fence or a JSON document that cannot be read, or what is inside is not certain.
    """
    for _ in range(_ROUNDS):
        before = text
        text = _without_tokens(text.strip().strip("\ufeff").strip())
        text = _without_rules(text)
        text = _without_heading(text)
        text = _without_emphasis(text)
        text = _without_introduction(text)
        text = _without_closing(text)
        text = _inside_fence(text)
        text = _inside_json(text)
        text = _inside_quotes(text)
        if text == before:
            return text
    raise UnusableAnswerError(f"answer is wrapped more than {_ROUNDS} times")


def _without_tokens(text: str) -> str:
    """The marks of chat templates at both ends, and tags around the whole."""
    text = _END_TOKENS.sub("", _START_TOKENS.sub("", text))
    wrapped = _ANSWER_TAGS.fullmatch(text)
    return wrapped["inside"].strip() if wrapped else text


def _without_rules(text: str) -> str:
    lines = text.split("\n")
    while lines and (not lines[0].strip() or _RULE.fullmatch(lines[0])):
        del lines[0]
    while lines and (not lines[-1].strip() or _RULE.fullmatch(lines[-1])):
        del lines[-1]
    return "\n".join(lines)


def _without_heading(text: str) -> str:
    """A title above the text goes; a lone heading was meant as the text."""
    heading = _HEADING.match(text)
    if heading is None:
        return text
    return text[heading.end() :].strip() or heading["title"].strip(" #")


def _without_emphasis(text: str) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and all(_QUOTED_LINE.match(line) for line in lines):
        text = _QUOTED_LINE.sub("", text)
    for mark in ("***", "**", "__", "*", "_"):
        if text.startswith(mark) and text.endswith(mark) and mark not in text[len(mark) : -len(mark)]:
            text = text[len(mark) : -len(mark)].strip()
    return _ITALIC.sub(r"\g<inside>", _BOLD.sub(r"\g<inside>", text))


def _without_introduction(text: str) -> str:
    for pattern in (INTERJECTION, INTRODUCTION, LABEL):
        match = pattern.match(text)
        if match:
            text = text[match.end() :].lstrip()
    return text


def _without_closing(text: str) -> str:
    notes = NOTES.search(text)
    if notes:
        text = text[: notes.start()].rstrip()
    closing = CLOSING.search(text)
    return text[: closing.start()].rstrip() if closing else text


def _inside_fence(text: str) -> str:
    """Return what one fence holds, where nothing stands outside it."""
    if "```" not in text and "~~~" not in text:
        return text
    inline = _INLINE_FENCE.fullmatch(text)
    if inline:
        return inline["inside"].strip()
    fences = list(_FENCE.finditer(text))
    if not fences:
        raise UnusableAnswerError("answer has a code fence that does not end")
    if len(fences) > 1:
        raise UnusableAnswerError(f"answer has {len(fences)} code fences")
    outside = text[: fences[0].start()].strip() + text[fences[0].end() :].strip()
    if outside:
        raise UnusableAnswerError(f"answer has text beside its code fence: {excerpt(outside)}")
    return fences[0]["inside"].strip()


def _inside_json(text: str) -> str:
    """The prompt in a JSON document; lines where it is a list of texts."""
    if text[:1] not in ("{", "["):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if text[0] == "{" or re.match(r"\[\s*[\[{\"']", text):
            raise UnusableAnswerError("answer looks like JSON and is not") from None
        return text  # such as a shot in brackets
    return _text_in(value)


def _text_in(value: Any) -> str:
    """A text, the only text of an object, or those of a list as a Markdown list."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(isinstance(part, dict) and part.get("type") in ("text", "output_text") for part in value):
            return " ".join(_text_in(part) for part in value)
        texts = [" ".join(_text_in(part).split()) for part in value]
        return texts[0] if len(texts) == 1 else "\n".join(f"- {text}" for text in texts)
    if isinstance(value, dict):
        fields = {_key(name): part for name, part in value.items() if _key(name) not in _DROPPED_KEYS}
        if fields.get("type") == "text":
            del fields["type"]
        if len(fields) == 1 and fields.keys() <= _PROMPT_KEYS:
            return _text_in(next(iter(fields.values())))
        raise UnusableAnswerError(
            f"answer is a JSON object in which no single text is the prompt: {excerpt(str(value))}"
        )
    raise UnusableAnswerError(f"answer is JSON without a text: {excerpt(json.dumps(value))}")


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _inside_quotes(text: str) -> str:
    """Remove quotation marks around the whole; those around a part stay."""
    closing = _QUOTES.get(text[:1])
    if closing is None or len(text) < 2 or text[-1] not in closing:
        return text
    inner = text[1:-1]
    if any(mark in inner for mark in {text[0], text[-1]} - {"'", "’"}):
        return text
    if text[0] in "'‘" and re.search(r"(?<!\w)['‘]|['’](?!\w)", inner):
        return text
    return inner.strip()
