"""The diffusers class that a preset names."""

from typing import Any

import diffusers

from pipeline.errors import RefusedError


def pipeline_class(name: str) -> Any:
    """The class of that name in diffusers.

    Raises:
        RefusedError: code ``pipeline_unknown``.
    """
    cls = getattr(diffusers, name, None)
    if not isinstance(cls, type) or not issubclass(cls, diffusers.DiffusionPipeline):
        raise RefusedError(f"diffusers {diffusers.__version__} has no pipeline {name!r}", code="pipeline_unknown")
    return cls
