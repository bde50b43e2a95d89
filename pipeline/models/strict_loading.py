"""Makes loading fail if weights do not fit their class exactly; the libraries only warn.

A tensor that the files lack is filled with random numbers by transformers, anew in each process; one that no layer
takes says that the files are of another model. Either way the clips would be of nothing that anybody trained.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_model

from pipeline.errors import RefusedError
from pipeline.files.safetensors_header import read_header

SHOWN = 4
"""Names in a message; the others are counted."""
_OTHER_SHAPES = ("expected shape", "size mismatch", "mismatched sizes", "shape mismatch")


@contextmanager
def strict_loading(unused: Iterable[str] = ()) -> Iterator[None]:
    """Inside, ``from_pretrained`` of transformers' and diffusers' models raises where its files do not fit the class.

    ``unused`` are patterns of tensors' names that may be left over. What a class declares ignorable and what is tied
    is no difference: the libraries' own reports leave it out.

    Raises:
        RefusedError: code ``model_damaged``, with the first names and a count.
    """
    bases: tuple[Any, ...] = (transformers.PreTrainedModel, diffusers.ModelMixin)
    originals = [base.__dict__["from_pretrained"] for base in bases]
    try:
        # A pipeline loads its parts by these two methods and keeps their reports to itself.
        for base, original in zip(bases, originals, strict=True):
            base.from_pretrained = classmethod(_checked(original.__func__, tuple(unused)))
        yield
    finally:
        for base, original in zip(bases, originals, strict=True):
            base.from_pretrained = original


def _checked(original: Callable[..., Any], unused: tuple[str, ...]) -> Callable[..., Any]:
    def from_pretrained(cls: Any, path: Any, *arguments: Any, **options: Any) -> Any:
        wants_report = options.pop("output_loading_info", False)
        if issubclass(cls, transformers.PreTrainedModel):
            options["ignore_mismatched_sizes"] = True  # else it raises without saying which; here the report does
        try:
            model, report = original(cls, path, *arguments, output_loading_info=True, **options)
        except (ValueError, RuntimeError) as error:
            if not any(word in str(error) for word in _OTHER_SHAPES):
                raise
            message = f"the weights in {path} do not fit {cls.__name__}: {error}"
            raise RefusedError(message[:1000], code="model_damaged") from error
        refuse_differences(model, report, str(path), unused)
        _refuse_other_numbers(model, Path(path) / (options.get("subfolder") or ""))
        return (model, report) if wants_report else model

    return from_pretrained


def differences(model: torch.nn.Module, report: dict[str, Any], unused: Iterable[str] = ()) -> list[str]:
    """Return a sentence for each kind of difference in a loader's report; none where every tensor has its place."""
    patterns = tuple(unused)
    if getattr(getattr(model, "hf_quantizer", None), "pre_quantized", False):
        # Its files hold packed tensors and their scales, under names that its quantiser alone knows.
        report = {key: value for key, value in report.items() if key == "error_msgs"}
    computed = {name for name, _ in model.named_buffers()} - set(model.state_dict())
    extra = [
        name
        for name in report.get("unexpected_keys", ())
        if not _is_computed(name, computed) and not any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    shapes = [_mismatch(item) for item in report.get("mismatched_keys", ())]
    return [
        f"{len(names)} {kind}: {named(names)}"
        for kind, names in (
            ("tensors are missing", report.get("missing_keys", ())),
            ("tensors have no place in it", extra),
            ("tensors have other shapes", shapes),
            ("errors", report.get("error_msgs", ())),
        )
        if names
    ]


def refuse_differences(model: Any, report: dict[str, Any], path: str, unused: Iterable[str] = ()) -> None:
    """
    Raises:
        RefusedError: code ``model_damaged``; the files in ``path`` do not fit the model's class.
    """
    sentences = differences(model, report, unused)
    if sentences:
        _refuse(model, path, sentences)


def _refuse_other_numbers(model: Any, part: Path) -> None:
    """Whole and complex numbers would be taken for weights, and truths for ones and zeros.

    Raises:
        RefusedError: code ``model_damaged``.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return  # its files hold packed tensors
    parameters = {name for name, _ in model.named_parameters()}
    wrong = []
    for file in sorted(part.glob("*.safetensors")):
        with suppress(OSError, ValueError):  # it was no part of the model, or the loader would have told
            dtypes = read_header(file).dtypes
            wrong += [f"{name} ({kind})" for name, kind in dtypes.items() if kind[0] in "BIUC" and kind != "BF16"]
    wrong = [shown for shown in wrong if shown.partition(" ")[0] in parameters]
    if wrong:
        _refuse(model, str(part), [f"{len(wrong)} tensors are not of floating-point numbers: {named(wrong)}"])


def refuse_meta(components: dict[str, Any], path: str) -> None:
    """
    Raises:
        RefusedError: code ``model_damaged``; a tensor was never given values.
    """
    for name, component in components.items():
        if isinstance(component, torch.nn.Module):
            tensors = (*component.named_parameters(), *component.named_buffers())
            empty = [tensor_name for tensor_name, tensor in tensors if tensor.is_meta]
            if empty:
                _refuse(component, f"{path}, {name}", [f"{len(empty)} tensors are missing: {named(empty)}"])


@contextmanager
def strict_single_file(path: str) -> Iterator[None]:
    """The same for ``from_single_file``, which reports in diffusers' log, if at all.

    Raises:
        RefusedError: code ``model_damaged``.
    """
    original = single_file_model.load_model_dict_into_meta

    def checked(model: Any, tensors: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        places = set(model.state_dict())
        result = original(model, tensors, *arguments, **options)
        ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
        report = {
            "missing_keys": [name for name, tensor in model.named_parameters() if tensor.is_meta],
            "unexpected_keys": [n for n in tensors if n not in places and not any(r.search(n) for r in ignored)],
        }
        refuse_differences(model, report, path)
        return result

    single_file_model.load_model_dict_into_meta = checked
    try:
        yield
    finally:
        single_file_model.load_model_dict_into_meta = original


def named(names: Iterable[Any]) -> str:
    """The first names and how many more there are."""
    every = sorted(str(name) for name in names)
    first_names = ", ".join(name[:120] for name in every[:SHOWN])
    return first_names + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")


def _is_computed(name: str, computed: set[str]) -> bool:
    """Older releases saved buffers, such as position ids, that the class computes itself now."""
    return any(name == buffer or name.endswith(f".{buffer}") or buffer.endswith(f".{name}") for buffer in computed)


def _mismatch(item: Any) -> str:
    if isinstance(item, tuple) and len(item) == 3:
        return f"{item[0]} ({_shape(item[1])} in the file, {_shape(item[2])} in the class)"
    return str(item)


def _shape(value: Any) -> str:
    return "x".join(str(side) for side in value) or "a number"


def _refuse(model: Any, path: str, sentences: list[str]) -> NoReturn:
    raise RefusedError(
        f"the weights in {path} do not fit {type(model).__name__}: {'; '.join(sentences)}", code="model_damaged"
    )
