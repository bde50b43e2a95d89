"""The forms in which a prompt is shown to the classifier: as it is, and as an encoder or a person reads it.

A classifier knows words by their bytes, so a word with an invisible character in it, in full-width letters or behind
marks is another word to it. Text encoders are not misled so easily: they clean their input (ftfy, HTML's entities,
NFKC). A prompt is unsafe when any of its forms is. An ordinary prompt has a few forms.

Encoders drop some characters that nobody sees and take others for blanks, so each kind is taken both ways. And they
read a prompt's beginning only, how much of it depends on the model, so a long prompt is also shown cut: what no encoder
reads could outweigh the rest for the classifier. Words that punctuation joins (``a,b``) are also shown apart.
"""

import html
import re
import unicodedata
from functools import lru_cache
from itertools import product

END_OF_LINE = "</s>"
"""fastText stops reading at this word: left in a prompt, it would hide all that follows it."""
LABEL_PREFIX = "__label__"
"""fastText's default; fastText does not take a word that begins with it for a word."""

_UNESCAPED_AT_MOST = 4
"""Wan's pipelines unescape thrice; more than that no encoder undoes."""
_CUTS_WORDS = (25, 50, 100, 200, 400)
"""Where long prompts are also cut: video models read from 77 to 512 tokens, and a word is one or more."""
_ZEROS = re.compile(r"&#([xX]?)0+(?=[0-9a-fA-F])")
_LONG_NUMBER = re.compile(r"&#(?:[0-9]{9,}|[xX][0-9a-fA-F]{9,});?")
_MARKS_AT_MOST = 30
"""The most marks in a row: Unicode's Stream-Safe Text Format (UAX 15) has no more, and no language needs them."""
_CHARS_AT_MOST = 200_000
"""The most characters of a cleaned prompt: one may stand for eighteen, and encoders read some hundred words."""
_HIDDEN = "".join(
    f"{chr(first)}-{chr(last)}"
    for first, last in (
        *((0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800)),
        *((0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF)),
    )
)
"""Characters without a picture that are letters or marks by category: Unicode's Default_Ignorable_Code_Point, and the
blank of Braille."""
_PUNCTUATION = re.compile(r"[^\w\s]+|_+")
_IS_HIDDEN = re.compile(f"[{_HIDDEN}]")
_HIDDEN_CATEGORIES = frozenset({"Cf", "Cn", "Co", "Cs"})
_CONFUSABLES = {
    **dict(zip("асԁеһіјӏкмпорԛѕтυѵԝхуәзЅ", "acdehijlkmnopqstuvwxyeзS", strict=True)),
    **dict(zip("АВЕЅІЈКМНОРСТХУԚԜ", "ABESIJKMHOPCTXYQW", strict=True)),
    **dict(zip("αβειικνορτυχωγ", "abeiikvoptuxwy", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    **dict(zip("օսցհյոզⲟⲣⲥ", "oughjnqopc", strict=True)),
    **dict(zip("ɡıɩɑɵɔǝəɛƨ", "giiaooeees", strict=True)),
}
"""Letters of Cyrillic, Greek, Armenian, Coptic and phonetic alphabets that look like plain Latin ones; used in words
that hold Latin letters too."""
_PARENTHESISED = {
    first + place: letter
    for first, letters in ((0x249C, "abcdefghijklmnopqrstuvwxyz"), (0x1F110, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    for place, letter in enumerate(letters)
}
"""Single characters such as ⒢, which NFKC would take apart into three."""
_LATIN_NAME = re.compile(
    r"LATIN (?P<case>SMALL|CAPITAL) LETTER (?P<letter>[A-Z])(?: WITH .*)?"
    r"|LATIN LETTER SMALL CAPITAL (?P<small>[A-Z])"
    r"|(?:NEGATIVE |REGIONAL |CROSSED |SQUARED |RAISED )+.*(?:LETTER|SYMBOL LETTER) (?P<symbol>[A-Z])"
)


def written_forms(prompt: str, *, lower_case: bool) -> tuple[str, ...]:
    """The different forms of a prompt, each one line without fastText's own marks; the first is the prompt itself, and
    the last are beginnings of those before.

    ``lower_case`` is true where the classifier knows words in lower case only.
    """
    forms = [prompt]
    if not _is_plain(prompt):
        for cleaned, control, hidden in product(_cleaned(prompt), ("", " "), ("", " ")):
            visible = _without_hidden(cleaned, control, hidden)
            forms += [visible, *_without_marks(visible)]
    lines = dict.fromkeys(one_line(form) for form in forms)
    # Words that punctuation glues together or adorns: fastText divides at blanks only, encoders at punctuation too.
    apart = (" ".join(_PUNCTUATION.sub(" ", line).split()) for line in list(lines))
    lines |= dict.fromkeys(line for line in apart if line)
    if lower_case:
        lines |= dict.fromkeys(line.lower() for line in list(lines))
    lines |= dict.fromkeys(beginning for line in list(lines) for beginning in _beginnings(line))
    return tuple(lines)


def _beginnings(line: str) -> list[str]:
    """The first words of a long line, in each of the lengths that encoders may read."""
    words = line.split(" ", _CUTS_WORDS[-1])
    return [" ".join(words[:count]) for count in _CUTS_WORDS if len(words) > count]


def one_line(text: str) -> str:
    """Return the words for fastText. Its own marks are taken apart, so that no prompt can hide words with them."""
    line = " ".join(text.replace(END_OF_LINE, " ").replace(LABEL_PREFIX, " ").split())
    return line.encode("utf-8", "replace").decode("utf-8")


def _is_plain(text: str) -> bool:
    """Most prompts: printable ASCII without an entity."""
    return text.isascii() and text.isprintable() and "&" not in text


def _cleaned(text: str) -> tuple[str, ...]:
    """Return the text in compatibility form, as pipelines clean a prompt: some with ftfy, some without."""
    import ftfy  # noqa: PLC0415 - takes a fifth of a second, and most prompts are plain

    text = text.encode("utf-8", "replace").decode("utf-8")
    for _ in range(_UNESCAPED_AT_MOST):
        text = _unescaped(text)
    # Not its removal of control characters: they are taken both ways.
    fixed = _unescaped(ftfy.fix_text(text, remove_control_chars=False, normalization=None))
    return tuple(dict.fromkeys(_compatible(form) for form in (text, fixed)))


def _unescaped(text: str) -> str:
    """Once; without numbers of a length that Python's own unescaping raises ValueError at, and no character has."""
    short = _ZEROS.sub(r"&#\1", text)
    return html.unescape(_LONG_NUMBER.sub(" ", short))


def _without_hidden(text: str, control: str, hidden: str) -> str:
    """Replace each control character by one text, and each other invisible character by another."""
    replacements = {ord(char): _shown(char, control, hidden) for char in set(text)}
    # What stood on both sides of a hidden character may compose now.
    return _compatible(text.translate(replacements))


def _shown(char: str, control: str, hidden: str) -> str:
    category = unicodedata.category(char)
    if char.isspace() or category in ("Zl", "Zp", "Zs"):
        return " "
    if category == "Cc":
        return control
    return hidden if category in _HIDDEN_CATEGORIES or _IS_HIDDEN.match(char) else char


def _compatible(text: str) -> str:
    """The text in NFKC, in a time that grows with its length: runs of marks, which Unicode sorts, are cut short."""
    text = text.translate(_PARENTHESISED)
    chars, run = [], 0
    for char in text if not text.isascii() else ():
        run = run + 1 if unicodedata.combining(char) else 0
        if run <= _MARKS_AT_MOST:
            chars.append(char)
    return unicodedata.normalize("NFKC", "".join(chars) if chars else text)[:_CHARS_AT_MOST]


def _without_marks(text: str) -> tuple[str, ...]:
    """The text with plain Latin letters in place of decorated ones and of letters that look like them, if it differs.

    Only words with a Latin letter: in other scripts marks are vowels, and a Cyrillic letter is itself.
    """
    if text.isascii():
        return ()
    words = [_plain_word(word) for word in text.split()]
    plain = " ".join(words)
    return (plain,) if plain != " ".join(text.split()) else ()


def _plain_word(word: str) -> str:
    if word.isascii():
        return word
    decomposed = unicodedata.normalize("NFKD", word)
    letters = decomposed.translate({ord(char): _latin(char) for char in set(decomposed)})
    if not re.search("[A-Za-z]", letters):
        return word
    plain = {ord(char): "" if _is_mark(char) else _CONFUSABLES.get(char, char) for char in set(letters)}
    return letters.translate(plain)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Me")


@lru_cache(maxsize=4096)
def _latin(char: str) -> str:
    """The letter that Unicode's name of the character says: of a small capital, a struck or a boxed one."""
    if char.isascii():
        return char
    match = _LATIN_NAME.fullmatch(unicodedata.name(char, ""))
    if match is None:
        return char
    letter = match["letter"] or match["small"] or match["symbol"]
    return letter if match["case"] == "CAPITAL" else letter.lower()
