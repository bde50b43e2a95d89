"""Checks names that come from a file and become file names, before they touch a path.

Where a name only has to remind of a text, ``pipeline.files.object_names.slug`` makes it; where it must be the text, as
in an export for another program, ``broken_rule`` says whether it may.
"""

import unicodedata

MAX_NAME_BYTES = 255
"""The most bytes of one name in UTF-8: the limit of common file systems."""
_JOINERS = ("\u200c", "\u200d")
"""Zero-width, and yet part of how words and emoji are written."""
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}
)
"""Devices on Windows, whatever suffix they have."""


def broken_rule(name: str) -> str | None:
    """Return the rule that a name breaks as one part of a path, used exactly as it is; None where it is safe."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "has a character that is not valid Unicode"
    if not name.strip():
        return "is empty"
    if size > MAX_NAME_BYTES:
        return f"has {size} bytes, and a file's name may have {MAX_NAME_BYTES}"
    # Compatibility forms of a slash or of dots are taken for them by some file systems and programs.
    folded = unicodedata.normalize("NFKC", name)
    if any(mark in form for form in (name, folded) for mark in "/\\"):
        return "has a slash or backslash, which would lead to another folder"
    if name.startswith(".") or folded.startswith("."):
        return "begins with a dot"
    if hidden := next((character for character in name if _is_hidden(character)), None):
        return f"has the invisible character U+{ord(hidden):04X}"
    if name.split(".", 1)[0].strip().upper() in _RESERVED:
        return "is the name of a device on Windows"
    return None


def printable(text: str) -> str:
    """A name for people to read: what cannot be seen, or would change what stands around it, is escaped."""
    return "".join(
        character.encode("unicode-escape").decode() if _is_hidden(character) else character for character in text
    )


def unusable(name: str) -> bool:
    """Return whether a path has a control character or invalid Unicode: no path that a person wrote has."""
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _is_hidden(character: str) -> bool:
    """Controls, marks that turn the direction of writing, surrogates, line separators: all but joiners."""
    category = unicodedata.category(character)
    return character not in _JOINERS and (category in ("Cc", "Cf", "Cs", "Zl", "Zp"))
