"""What the messages of every protocol of sessions have in common: their bases, the rules of their texts, and how a text
frame becomes one of a union's messages."""

from __future__ import annotations

import json
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipeline.encoding.live import Mode
from pipeline.names import check_text
from pipeline.nearest import did_you_mean

_M = TypeVar("_M")
MAX_PROMPT_CHARACTERS = 8000
MAX_SEED_PROMPTS = 100
_MAX_SHOWN = 80


class InvalidMessageError(ValueError):
    """What a client sent is not a message, or cannot be done; the text says why."""

    def __init__(self, text: str, *, prompt: str | None = None) -> None:
        super().__init__(text)
        self.prompt = prompt
        """The prompt in it, which is not used."""


class FromClient(BaseModel):
    """A message that a client sends. It may have fields that are not known here; they are not read."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    def misspelt(self) -> dict[str, str]:
        """Return the fields that are not known but look like known ones, each with a hint at these."""
        hints = {name: did_you_mean(name, type(self).model_fields) for name in self.model_extra or {}}
        return {name[:_MAX_SHOWN]: hint.strip() for name, hint in hints.items() if hint}


class Switch(FromClient):
    """A message that switches something on or off."""

    enabled: bool


class FromServer(BaseModel):
    """A message that the server sends."""

    model_config = ConfigDict(frozen=True)


class GpuAssigned(FromServer):
    """A GPU is the session's."""

    type: Literal["gpu_assigned"] = "gpu_assigned"
    gpu_id: int
    session_timeout: int


class MediaInit(FromServer):
    """What the binary messages hold that follow: first the initialisation (none of pictures), then fragments."""

    type: Literal["media_init"] = "media_init"
    segment_idx: int
    mime: str
    stream_id: str
    mode: Mode = Mode.AV_FMP4


class MediaSegmentComplete(FromServer):
    """All fragments of a segment were sent."""

    type: Literal["media_segment_complete"] = "media_segment_complete"
    segment_idx: int
    stream_id: str
    chunks: int


def _prompt(value: str) -> str:
    return check_text(value.strip(), MAX_PROMPT_CHARACTERS)


def _not_too_many(values: list[str]) -> list[str]:
    if len(values) > MAX_SEED_PROMPTS:
        raise ValueError(f"has {len(values)} prompts; at most {MAX_SEED_PROMPTS} are allowed")
    return values


def _filled(values: list[str]) -> list[str]:
    return [value.strip() for value in values if value.strip()]


def _storable(value: str) -> str:
    return check_text(value, MAX_PROMPT_CHARACTERS, empty=True)


Prompt = Annotated[str, AfterValidator(_prompt)]
"""A prompt without the blanks around it, of at most ``MAX_PROMPT_CHARACTERS``; an empty one is refused."""
StorableText = Annotated[str, AfterValidator(_storable)]
"""A text that a row can hold; it may be empty."""
Prompts = Annotated[list[Prompt], AfterValidator(_not_too_many)]
"""At most ``MAX_SEED_PROMPTS`` prompts, none of them empty."""
FilledPrompts = Annotated[list[StorableText], AfterValidator(_not_too_many), AfterValidator(_filled)]
"""At most ``MAX_SEED_PROMPTS`` prompts; empty ones are left out."""


class MessageUnion(Generic[_M]):
    """The messages that a client may send: a pydantic union that is told apart by the field ``type``."""

    def __init__(self, union: Any) -> None:
        self._adapter: TypeAdapter[_M] = TypeAdapter(union)
        models = get_args(get_args(union)[0])
        self.types: tuple[str, ...] = tuple(
            name for model in models for name in get_args(model.model_fields["type"].annotation)
        )

    def of_text(self, text: str) -> _M:
        """Return the message that a text frame holds. Raises InvalidMessageError."""
        try:
            raw = json.loads(text)
        except RecursionError:
            raise InvalidMessageError("the message is nested too deep") from None
        except ValueError as error:
            raise InvalidMessageError(f"the message is not JSON: {error}") from None
        return self.of(raw)

    def of(self, raw: object) -> _M:
        """Return the message that a JSON value is.

        Raises:
            InvalidMessageError: it is of no known type, or a field breaks its rule; the text names field, value and
                rule.
        """
        if not isinstance(raw, dict):
            raise InvalidMessageError("a message is a JSON object with a `type`")
        kind = raw.get("type")
        if kind not in self.types:
            hint = did_you_mean(kind, self.types)
            known = f"known types are {', '.join(self.types)}"
            raise InvalidMessageError(f"type: {kind!r:.80} is not a message of this protocol: {hint}{known}")
        try:
            return self._adapter.validate_python(raw)
        except ValidationError as error:
            text, prompt = "; ".join(_mistake(dict(item)) for item in error.errors()), raw.get("prompt")
            shown = prompt[:MAX_PROMPT_CHARACTERS] if isinstance(prompt, str) else None
            raise InvalidMessageError(text, prompt=shown) from None


def _mistake(item: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in item["loc"][1:]) or "message"
    if item["type"] == "missing":
        return f"{field}: is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    shown = "" if isinstance(given, dict | list) else f"{given!r:.80} "
    return f"{field}: {shown}is not possible: {message}"
