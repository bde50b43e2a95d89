"""``.txt``: a prompt a line, with options behind it."""

import re
from collections.abc import Iterator
from itertools import chain

from pipeline.prompts.fields import FIELD_RULES
from pipeline.prompts.formats.lines import INVISIBLE, TXT_LINE_END, lines_of
from pipeline.prompts.formats.table import Record, Table
from pipeline.prompts.problems import Problems

_DASHES = "‐‑‒–—―⁃−⸺⸻﹘﹣－"
"""The characters that editors, phones and word processors write for hyphens: dashes and minus signs."""
_MARKS = INVISIBLE + "\u200c\u200d\u200e\u200f\u00ad"
_OPTION = re.compile(r"(?:(?<=\s)|^)--(?=[^\W\d_])")
_OPTION_NAME = re.compile(r"([^\W\d_][\w-]*)(?:\s*=\s*|\s+|$)")
_RUN = re.compile(rf"[-{_DASHES}{_MARKS}]++([^\W\d_][\w-]*+)?")
_NOT_A_HYPHEN = re.compile(rf"[{_DASHES}{_MARKS}]")
_CHAT_LINE = re.compile(
    rf"[{_MARKS}]*\[?\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}},? {{1,2}}\d{{1,2}}[:.]\d{{2}}(?:[:.]\d{{2}})?"
    rf"(?:[ \u00a0\u202f]?[AaPp]\.?[Mm]\.?)?(?:\]| [-–]) [{_MARKS}]*[^:]{{1,60}}: "
)
"""A message in the export of a chat: date, time, who wrote it."""
_ESCAPED = re.compile(rf"\\(--|[{_DASHES}])")


def read_txt(data: bytes, problems: Problems) -> Table:
    """A prompt a line. ``#`` starts a comment line; ``#: name = value`` lines before the first prompt are defaults."""
    defaults: list[Record] = []
    lines = lines_of(data, problems, line_end=TXT_LINE_END)
    first: list[tuple[int, str]] = []
    for number, line in lines:
        text = line.strip()
        if text.startswith("#:"):
            defaults += _default(number, text, problems)
        elif text and not text.startswith("#"):
            first.append((number, line))
            break
    return Table(tuple(defaults), _records(chain(first, lines), problems), text=True)


def _default(number: int, text: str, problems: Problems) -> list[Record]:
    name, equals, value = text[2:].partition("=")
    if not equals or not name.strip():
        problems.add(f"{text[:60]!r} is not of the form '#: name = value'", line=number)
        return []
    return [Record(number, {name.strip().replace("-", "_"): value.strip()})]


def _records(lines: Iterator[tuple[int, str]], problems: Problems) -> Iterator[Record]:
    for number, line in lines:
        text = line.strip()
        if text.startswith("#:"):
            problems.add("defaults ('#: name = value') must come before the first prompt", line=number)
        elif text and not text.startswith("#"):
            fields = _fields(number, text, problems)
            if fields is not None:
                yield Record(number, fields)


def _fields(number: int, text: str, problems: Problems) -> dict[str, object] | None:
    """``prompt --name value --name=value``; an option starts at a blank, two hyphens and a letter; ``\\--`` is text."""
    if text.startswith("\\#"):
        text = text[1:]
    if _CHAT_LINE.match(text):
        problems.add(
            f"{text[:60]!r} looks like a line of a chat's export, whose date and name would be part of the prompt; "
            "leave the prompt alone on the line",
            line=number,
            kind="chat line",
        )
        return None
    if not text.isascii() and (disguised := _disguised_option(text)):
        dash, name = disguised
        codes = ", ".join(f"U+{ord(mark):04X}" for mark in dict.fromkeys(dash) if mark != "-")
        marks = "".join(mark for mark in dash if mark not in _MARKS)
        alternative = f", or '\\{marks[-1]}{name}' where it belongs to the prompt" if marks[-1] in _DASHES else ""
        problems.add(
            f"'{marks}{name}' looks like the option '--{name}', but it has characters ({codes}) that editors, phones "
            f"and web pages put for hyphens, or beside them; write '--{name}'{alternative}",
            line=number,
            kind="disguised option",
        )
        return None
    if "--" not in text:
        return {"prompt": _plain(text)}
    prompt, *options = _OPTION.split(text)
    fields: dict[str, object] = {"prompt": _plain(prompt)} if prompt.strip() else {}
    good = True
    for option in options:
        name_match = _OPTION_NAME.match(option)
        if name_match is None:
            problems.add(f"'--{option.strip()[:60]}' is not an option; write '\\--' for a plain '--'", line=number)
            good = False
            continue
        name = name_match[1].replace("-", "_")
        value = _plain(option[name_match.end() :])
        if name in fields:
            problems.add("is given twice on this line", line=number, field=name)
            good = False
        elif not value and name != "enhance":
            problems.add(f"'--{name}' needs a value", line=number, field=name)
            good = False
        else:
            fields[name] = value or "true"
    return fields if good else None


def _disguised_option(text: str) -> tuple[str, str] | None:
    """``(dash, name)`` of an option whose hyphens were replaced, or hidden behind marks that nobody sees.

    It would silently become a part of the prompt. A dash counts where an option could begin, before a field's name.
    """
    for run in _RUN.finditer(text):
        name = run[1]
        if name is None or name.replace("-", "_").casefold() not in FIELD_RULES:
            continue
        begin = run.start()
        dash = text[begin : run.start(1)]
        at_blank = begin == 0 or text[begin - 1].isspace() or dash[0] in _MARKS
        if at_blank and dash.strip(_MARKS) and _NOT_A_HYPHEN.search(dash):
            return dash[-8:].lstrip("-" if dash[-8:].strip("-" + _MARKS) else ""), name
    return None


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text.strip()) if "\\" in text else text.strip()
