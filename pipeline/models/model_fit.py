"""Checks that a model's files have every tensor of its classes, in the right shape, without loading values."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import transformers

from pipeline.errors import RefusedError
from pipeline.models.model_files import INDEX, index_value, read_index, variant_of
from pipeline.models.pipeline_class import pipeline_class
from pipeline.models.strict_loading import strict_loading
from pipeline.presets import Preset

_DENOISERS = ("transformer", "unet", "transformer_2")
"""Pipelines of two stages take either of them."""


def class_problems(preset: Preset, folder: Path) -> list[str]:
    """A sentence on each component whose files do not fit its class; the files themselves are known to be whole.

    The libraries' own loaders do it on PyTorch's meta device, so names that they convert and weights that are tied
    count as when the model is loaded. No weight is read.
    """
    problems = []
    variant = variant_of(preset, folder)
    problems += _absent_parts(preset, folder)
    with _quiet(), strict_loading(preset.unused_weights):
        for name, (library, class_name) in read_index(folder).items():
            cls = _class_of(library, class_name)
            if cls is None:
                problems.append(f"{name}: {library} has no class {class_name}")
            elif issubclass(cls, diffusers.ModelMixin | transformers.PreTrainedModel):
                problems += [f"{name}: {sentence}" for sentence in _component_problems(cls, folder / name, variant)]
            elif issubclass(cls, diffusers.SchedulerMixin | transformers.PreTrainedTokenizerBase):
                problems += [f"{name}: {sentence}" for sentence in _small_part_problems(cls, folder / name)]
    return problems


def _absent_parts(preset: Preset, folder: Path) -> list[str]:
    """What the pipeline's class cannot be without, and the model's index does not have."""
    try:
        cls = pipeline_class(preset.pipeline_class)
    except RefusedError:
        return []  # told by others
    parameters = inspect.signature(cls.__init__).parameters
    there = set(read_index(folder)) | {name for name in parameters if name == "self"}
    optional = set(cls._optional_components)
    absent = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in optional | there
    ]
    denoisers = [name for name in _DENOISERS if name in parameters]
    if denoisers and not there & set(denoisers):
        absent += [" or ".join(denoisers)] if set(denoisers) <= optional else []
    return [f"{folder / INDEX} has no {name}, which {preset.pipeline_class} needs" for name in absent]


def _small_part_problems(cls: Any, part: Path) -> list[str]:
    """Of a scheduler or a tokenizer, which is made as when the model is loaded."""
    try:
        cls.from_pretrained(part, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - what is wrong with a file may raise anything in its loader
        return [f"cannot be loaded as {cls.__name__}: {type(error).__name__}: {_one_line(error)}"[:500]]
    return []


def _component_problems(cls: Any, part: Path, variant: dict[str, str]) -> list[str]:
    if _is_quantised(part):
        return []  # its tensors are packed in a way that only the quantiser's kernels know
    half = variant if any(part.glob("*.fp16.safetensors")) else {}
    try:
        cls.from_pretrained(part, device_map={"": "meta"}, local_files_only=True, **half)
    except RefusedError as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001 - what is wrong with a file may raise anything in its loader
        return [f"cannot be loaded as {cls.__name__}: {type(error).__name__}: {_one_line(error)}"[:500]]
    return []


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_quantised(part: Path) -> bool:
    return index_value(part, "quantization_config", None, file="config.json") is not None


def _class_of(library: str, name: str) -> Any:
    """The class that an index names; None where the installed libraries have none of that name."""
    homes = {"diffusers": diffusers, "transformers": transformers}
    home = homes.get(library) or getattr(diffusers.pipelines, library, None)
    cls = getattr(home, name, None)
    return cls if isinstance(cls, type) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loaders: what they would log is in the sentences."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    levels = [log.get_verbosity() for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
