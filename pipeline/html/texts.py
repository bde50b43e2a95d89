"""Makes user texts safe for display: prompts, names, labels, error messages."""

import re

_TURNING = "\u202a-\u202e\u2066-\u2069"
"""Marks that embed, override or isolate a direction; the marks that Arabic and Hebrew are written with stay."""
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_HIDDEN = re.compile(f"[{_TURNING}{_CONTROLS}\ud800-\udfff\ufffe\uffff]")


def visible(text: str) -> str:
    """Return the text with each mark that would turn or break what is around it replaced by ``�``."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub("\ufffd", text)
