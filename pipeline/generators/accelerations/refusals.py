"""The two refusals of an acceleration: the model does not support it, or this machine does not."""

from typing import Any

from pipeline.errors import RefusedError


def unsupported(option: str, model: Any, why: str) -> RefusedError:
    """This model can never; ``why`` ends in what else there is."""
    return RefusedError(f"{option}: {type(model).__name__} cannot: {why}", code="acceleration_unsupported")


def unavailable(option: str, why: str) -> RefusedError:
    """Another machine or build could; ``why`` says what is missing here, and what else there is."""
    return RefusedError(f"{option}: not on this machine: {why}", code="acceleration_unavailable")


def denoisers(pipe: Any) -> dict[str, Any]:
    """The models that the denoising loop calls, by the pipeline's names for them; two in Wan 2.2's way."""
    models = {name: getattr(pipe, name, None) for name in ("transformer", "transformer_2", "unet")}
    return {name: model for name, model in models.items() if model is not None}
