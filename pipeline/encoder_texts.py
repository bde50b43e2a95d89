"""The texts that a job gives to the model's text encoders, which are the texts to screen.

``generate`` takes its prompt from here and nowhere else, and ``screen`` takes every text from here: a field that
reaches an encoder is added here, or it reaches none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.outputs import EnhanceOutput
from pipeline.spec import JobSpec

_NEGATIVE = "negative_prompt"


@dataclass(frozen=True, slots=True)
class CallTexts:
    """The part of a preset about its pipeline's call: further ``arguments``, and ``names`` that fields have there."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


NO_CALL_TEXTS = CallTexts()


def prompt_for(spec: JobSpec, enhanced: EnhanceOutput | None, segment: int) -> str:
    """The prompt that a segment (from 0) is generated from: the enhanced one where there is one, else its own."""
    if enhanced is not None and enhanced.prompts:
        return enhanced.prompts[segment]
    return (enhanced.prompt if enhanced else "") or spec.prompt_of(segment)


def negative_prompt_draws(spec: JobSpec, call: CallTexts = NO_CALL_TEXTS) -> bool:
    """Return whether the picture is drawn towards the negative prompt.

    Guidance weighs it with 1 - ``guidance_scale``: from 1 on it repels or does nothing, below 1 it is a prompt. So is
    one that a preset gives to the call under a name that is not a negative prompt's.
    """
    if not spec.negative_prompt:
        return False
    scales = (spec.guidance_scale, spec.guidance_scale_2)
    renamed = not call.names.get(_NEGATIVE, _NEGATIVE).startswith("negative")
    return renamed or any(scale is not None and scale < 1 for scale in scales)


def texts_to_screen(spec: JobSpec, enhanced: EnhanceOutput | None, call: CallTexts = NO_CALL_TEXTS) -> dict[str, str]:
    """Every text that an encoder will see, and every text that one was made from, each once, by a name for people.

    An enhancer's input is among them, so that no enhancer can launder it. The negative prompt is where it draws, and so
    are the prompts that a preset gives to every call.
    """
    texts = {"original": spec.prompt}
    texts |= {f"segment {k}": text for k, text in enumerate(spec.segment_prompts, 1)}
    for k, record in enumerate(enhanced.segments if enhanced else (), 1):
        texts |= {f"segment {k}, to be enhanced": record.original, f"segment {k}, enhanced": record.prompt}
    for name, value in call.arguments.items():
        if "prompt" in name and not name.startswith("negative"):
            texts |= {f"preset argument {name} {k}": text for k, text in enumerate(_texts_in(value), 1)}
    if negative_prompt_draws(spec, call):
        texts["negative prompt"] = str(spec.negative_prompt)
    for segment in range(spec.segments):
        name = "enhanced" if segment == 0 else f"segment {segment + 1}, generated"
        texts[name] = prompt_for(spec, enhanced, segment)
    first_names = {text: name for name, text in reversed(texts.items())}
    return {name: text for text, name in reversed(first_names.items())}


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(item)
