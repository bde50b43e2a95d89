"""The base of all settings models: how a value from any source is tidied and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, field_validator, model_validator

from pipeline.settings.sources import expanded

_LARGEST = 1e12
"""The bound of numbers: a time in seconds below it does not overflow when it is converted to milliseconds."""


class NormalisedModel(BaseModel):
    """The base of every settings model. It normalises values, whichever source they came from."""

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, values: Any) -> Any:
        return expanded(cls, values) if isinstance(values, Mapping) else values

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_value(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("contains a NUL character")
        result = check(value)
        paths = result if isinstance(result, tuple) else (result,)
        if any(isinstance(path, Path) and str(path).startswith("~") for path in paths):
            raise ValueError("begins with ~ and a name, and this machine has no user of that name")
        if isinstance(result, float) and not -_LARGEST < result < _LARGEST:
            raise ValueError(f"must be a number below {_LARGEST:g}")
        return result


class Group(NormalisedModel):
    """The base of the groups of settings: ``VGEN_<GROUP>_<FIELD>``, or a table of ``vgen.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
