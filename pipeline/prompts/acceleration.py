"""The field ``acceleration``: a mapping of options, or text, ``vae_tiling,step_cache=first_block:threshold=0.1``.

Layers of values are joined option by option; ``none`` says every option, so that nothing of a weaker layer is left.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.acceleration import PLAIN, STEP_CACHES, Acceleration, MagCache
from pipeline.nearest import did_you_mean
from pipeline.presets import Library, Preset, abilities, calibration
from pipeline.prompts.numbers import show

Given = tuple[tuple[str, object], ...]
"""Options and their checked values, in the order of ``Acceleration``."""

_OPTIONS = tuple(Acceleration.model_fields)
_FLAGS = frozenset(name for name, field in Acceleration.model_fields.items() if field.annotation is bool)
_WORDS: Mapping[str, object] = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NONE = "none"


def parse_acceleration(value: object, text: bool) -> Given:
    """Raises ValueError with the option, its value and the rule."""
    raw = _from_text(value) if isinstance(value, str) else value
    if not isinstance(raw, dict):
        raise ValueError(
            f"{show(value)} is not a mapping of options, or text such as 'vae_tiling,step_cache=first_block'"
        )
    for name in raw:
        if name not in _OPTIONS:
            raise ValueError(f"unknown option {show(name)}; {did_you_mean(name, _OPTIONS)}known: {', '.join(_OPTIONS)}")
    if isinstance(raw.get("step_cache"), str):
        raw = {**raw, "step_cache": _step_cache(raw["step_cache"])}
    try:
        checked = Acceleration.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_sentence(dict(error.errors()[0]))) from None
    return tuple((name, getattr(checked, name)) for name in _OPTIONS if name in raw)


def join(weak: Given, strong: Given) -> Given:
    """Both layers' options; the strong one's win."""
    values = {**dict(weak), **dict(strong)}
    return tuple((name, values[name]) for name in _OPTIONS if name in values)


def resolved(
    preset: Preset, requested: Given | None, gpu: tuple[str, ...], library: Library, mistakes: list[tuple[str, str]]
) -> Acceleration:
    """The job's acceleration: the preset's, with what was given on top; what cannot be is added to ``mistakes``."""
    if requested is None and preset.acceleration.plain:
        return PLAIN
    try:
        # Not model_copy alone: options that are right each for itself may exclude each other.
        merged = preset.acceleration.model_copy(update=dict(requested or ()))
        acceleration = Acceleration.model_validate(merged.model_dump())
    except ValidationError as error:
        mistakes.append(("acceleration", _sentence(dict(error.errors()[0]))))
        return PLAIN
    reasons = abilities.missing(preset, acceleration, gpu)
    if isinstance(acceleration.step_cache, MagCache) and not acceleration.step_cache.ratios and not reasons:
        ratios = calibration.read(library.folder, preset)
        if isinstance(ratios, str):
            reasons = [ratios]
        else:
            cache = acceleration.step_cache.model_copy(update={"ratios": ratios})
            acceleration = acceleration.model_copy(update={"step_cache": cache})
    mistakes += [("acceleration", sentence) for sentence in reasons]
    return acceleration


def _from_text(text: str) -> dict[str, Any]:
    if text.strip() == _NONE:
        return PLAIN.model_dump()
    options: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or (equals and not value) or (not equals and name in _OPTIONS and name not in _FLAGS):
            hint = f"; {name} needs a value" if name in _OPTIONS else ""
            raise ValueError(f"{show(part)} is not of the form 'option' or 'option=value'{hint}")
        if name in options:
            raise ValueError(f"option {name!r} is given twice in {show(text)}")
        options[name] = _value(value) if equals else True
    return options


def _step_cache(text: str) -> dict[str, Any] | None:
    """``kind:option=value:option=value``, or ``none``."""
    kind, *options = (part.strip() for part in text.split(":"))
    if kind == _NONE:
        return None
    if kind not in STEP_CACHES:
        raise ValueError(f"step_cache: {show(kind)} is not a step cache; use one of: {', '.join(STEP_CACHES)}")
    cache: dict[str, Any] = {"kind": kind}
    for option in options:
        name, equals, value = (piece.strip() for piece in option.partition("="))
        if not equals:
            raise ValueError(f"step_cache: {show(option)} is not of the form 'option=value'")
        cache[name] = _value(value)
    return cache


def _value(text: str) -> object:
    """A flag's word as what it says; numbers stay text, which the model reads."""
    return None if text == _NONE else _WORDS.get(text.lower(), text)


def _sentence(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in STEP_CACHES)
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where or error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    if error["type"] == "extra_forbidden":
        return f"{where}: is not an option of this acceleration"
    return f"{where}: {show(error['input'])} is not possible: {message}"
