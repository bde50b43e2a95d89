"""The bodies of requests."""

from dataclasses import fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.names import check_text
from pipeline.nearest import did_you_mean
from service.choices import SubmissionChoices


class Body(BaseModel):
    """A JSON object in which no unknown field is overlooked."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_known_fields(cls, data: object) -> object:
        unknown = [name for name in data if name not in cls.model_fields] if isinstance(data, dict) else []
        if unknown:
            hints = {str(name)[:80]: did_you_mean(name, cls.model_fields).strip() for name in unknown}
            raise PydanticCustomError("unknown_fields", "has unknown fields", {"hints": hints})
        return data

    @field_validator("*")
    @classmethod
    def _is_text_that_rows_can_keep(cls, value: object) -> object:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                check_text(text, len(text), empty=True)
        return value


class BatchOptions(Body):
    """What holds for a whole batch; what is left out is as in the settings."""

    name: str | None = Field(None, max_length=200, description="The batch's name; default: the file's.")
    key: str | None = Field(None, description="Submission key: submitting again under it adds nothing.")
    again: bool = Field(False, description="Make a new batch even if the same was submitted.")
    reuse: bool | None = Field(
        None, description="Make only what no earlier batch of a file of this name has; default: of a file with a name."
    )
    safety_policy: str | None = Field(None, description="closed, open or hold; for keys with the scope admin.")
    codec: str | None = Field(None, description="FFmpeg encoder.")
    quality: int | None = Field(None, description="CRF, lower is better.")
    score: str | None = Field(None, description="Metrics and groups, separated by commas.")
    gate: list[str] | None = Field(None, description="Publish only what keeps these rules: checks, or NAME>=0.5.")
    reroll: int | None = Field(None, description="Make a clip that the gate rejects again so often; 0 to 20.")
    by: str | None = Field(None, description="When it should be done: 07:00, 2026-03-01T07:00 or +3h.")
    max_gpu_hours: float | None = Field(None, description="Dispatch no more to GPUs after so many GPU-hours.")
    max_cost: float | None = Field(None, description="The same by cost: needs the setting prices.")
    dry_run: bool = Field(False, description="Show the jobs and what they need; store nothing.")

    def choices(self, owner: str) -> SubmissionChoices:
        own = {field.name: getattr(self, field.name) for field in fields(SubmissionChoices) if field.name != "owner"}
        return SubmissionChoices(owner=owner, **own)


class PromptText(BatchOptions):
    """A prompt file as text."""

    text: str = Field(description="What the file holds.")
    format: Literal["txt", "jsonl", "csv", "yaml"] = "txt"


class Chosen(Body):
    """Which jobs of a batch."""

    label: str | None = Field(None, description="Only jobs with this label: name or name=value.")


class ToRetry(Chosen):
    """Which failed jobs of a batch."""

    code: str | None = Field(None, description="Only jobs that failed with this error.")


class NewLimits(Body):
    """The limits to change; null for none, left out for as before."""

    max_gpu_hours: float | None = None
    max_cost: float | None = None
    by: str | None = Field(None, description="The deadline: 07:00, 2026-03-01T07:00 or +3h.")


class Continuation(Body):
    """What happens after a finished clip."""

    prompt: str
    segments: int | None = Field(None, description="Number of segments that are added; default: 1.")
    num_frames: int | None = Field(None, description="Frames of each; default: as before.")
    seed: int | None = Field(None, description="Default: derived from the clip's.")
    enhance: bool | None = Field(None, description="Default: as the clip was made.")
    whole: bool = Field(True, description="Whether the new clip begins with the finished one.")

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude={"prompt", "whole"})


class Rating(Body):
    """What somebody says of a clip; what is left out stays as it was, null takes it away."""

    stars: int | None = Field(None, description="1 to 5.")
    note: str | None = Field(None, description="At most 4,000 characters.")

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class Vote(Body):
    """Which of two clips is better."""

    first: str = Field(description="The id of a job.")
    second: str = Field(description="The id of another one.")
    preferred: str | None = Field(description="The id of the better of the two; null: neither is.")


class Queues(Body):
    """Which queues."""

    queues: list[str] = Field([], description="Such as vgen.io, or a GPU type; vgen.gpu means all GPUs.")
    everything: bool = Field(False, description="Nothing is dispatched or begun anywhere.")
