"""Parses numbers and booleans as people, spreadsheets and pandas write them."""

import re
from collections.abc import Callable

Parser = Callable[[object, bool], object]
"""``(raw value, whether numbers may be text) -> value``; raises ValueError with the value and the rule."""

_WHOLE = re.compile(r"([+-]?[0-9]{1,40})(?:\.0{0,40})?")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,3})?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]{1,40},[0-9]{1,40}")
_SHORTENED = re.compile(r"[0-9](?:[.,][0-9]{1,40})?[eE]\+[0-9]{1,3}")
_TRUE, _FALSE = frozenset({"true", "yes", "1", "on", "1.0"}), frozenset({"false", "no", "0", "off", "0.0"})
_EXACT = 2**53
"""Above it a number with a point stands for several whole ones."""


def show(value: object) -> str:
    """The value for a message, short."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


def whole_number(value: object, text: bool) -> object:
    """``49.0`` as 49, which pandas writes where a column has an empty cell; anything else as it is."""
    if text and isinstance(value, str) and (match := _WHOLE.fullmatch(value.strip())):
        return int(match[1])
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value


def whole(low: int, high: int) -> Parser:
    """A whole number from ``low`` to ``high``."""

    def parse(value: object, text: bool) -> int:
        number = whole_number(value, text)
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError(f"{show(value)} is not a whole number from {low} to {high}{spreadsheet_hint(value, text)}")
        return number

    return parse


def decimal(value: object, text: bool) -> object:
    """Text such as ``2.5e-1`` as a float; anything else as it is."""
    return float(value) if text and isinstance(value, str) and _DECIMAL.fullmatch(value.strip()) else value


def number(low: float, high: float, *, open_low: bool = False) -> Parser:
    """A number from ``low`` (or above it) to ``high``, as a float."""
    rule = f"a number over {low:g} and at most {high:g}" if open_low else f"a number from {low:g} to {high:g}"

    def parse(value: object, text: bool) -> float:
        value = decimal(value, text)
        # An int may be too large for a float; comparing it is exact. NaN compares with nothing.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and low <= value <= high and not (open_low and value == low):  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
        raise ValueError(f"{show(value)} is not {rule}{spreadsheet_hint(value, text)}")

    return parse


def flag(value: object, text: bool) -> bool:
    """A truth, as text in any case."""
    if text and isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    if not isinstance(value, bool):
        raise ValueError(f"{show(value)} is not true or false")
    return value


def spreadsheet_hint(value: object, text: bool) -> str:
    """Return what a spreadsheet has made of a number, where it looks so."""
    if not text or not isinstance(value, str):
        return ""
    if _DECIMAL_COMMA.fullmatch(value.strip()):
        return f"; write {value.strip().replace(',', '.')}, with a point"
    return "; a spreadsheet has shortened it: give the column the format of text" if _SHORTENED.fullmatch(value) else ""
