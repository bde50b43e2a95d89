"""The arguments of a diffusers class, read from its source: a submission is checked without loading torch."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_MAX_BASES = 4
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True)
class CallSignature:
    """The parameters of a pipeline's call, in order; ``defaults`` has those that may be left out.

    A default that is not a plain value is ``...``.
    """

    parameters: tuple[str, ...]
    defaults: dict[str, Any] = field(default_factory=dict)
    has_guider: bool = False
    """Guidance belongs to a component of the pipeline and not to its call."""
    has_boundary: bool = False
    """Made with a boundary between two denoisers' steps: ``guidance_scale_2`` is the second one's."""

    def requires(self, name: str) -> bool:
        return name in self.parameters and name not in self.defaults


def signature_of(call: Callable[..., Any], *, has_guider: bool = False, has_boundary: bool = False) -> CallSignature:
    """The signature of a call that is in memory."""
    parameters = inspect.signature(call).parameters
    defaults = {
        name: value.default if isinstance(value.default, str | int | float | None) else ...
        for name, value in parameters.items()
        if value.default is not inspect.Parameter.empty
    }
    names = tuple(name for name in parameters if name != "self")
    return CallSignature(names, defaults, has_guider=has_guider, has_boundary=has_boundary)


@lru_cache(maxsize=128)
def call_signature(class_name: str) -> CallSignature | None:
    """The signature of a pipeline's call by the class's name, without importing it.

    None where the installed diffusers has no such class, or its call cannot be found in its source.
    """
    for _ in range(_MAX_BASES):
        node = _class_node(class_name)
        if node is None:
            return None
        call, init = _method(node, "__call__"), _method(node, "__init__")
        if call is not None:
            made_with = () if init is None else _parameters(init)
            return CallSignature(
                _parameters(call),
                _defaults(call),
                has_guider="guider" in made_with,
                has_boundary="boundary_ratio" in made_with,
            )
        bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id.endswith("Pipeline")]
        if not bases:
            return None
        class_name = bases[0]
    return None


def _class_node(class_name: str) -> ast.ClassDef | None:
    if not _NAME.fullmatch(class_name):
        return None
    start = re.compile(rb"^class " + class_name.encode() + rb"\b", re.MULTILINE)
    plain = class_name.lower()
    # Mostly it is in the folder of its family's name; the others are read after that.
    for path in sorted(_sources(), key=lambda path: path.parent.name.replace("_", "") not in plain):
        text = path.read_bytes()
        if start.search(text):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name == class_name:
                    return node
    return None


def _sources() -> Iterator[Path]:
    """The files of diffusers' pipelines; the package's own file is not run."""
    spec = find_spec("diffusers")
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        yield from sorted((Path(folder) / "pipelines").rglob("*.py"))


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def _parameters(function: ast.FunctionDef) -> tuple[str, ...]:
    arguments = function.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    extra = [item for item in (arguments.vararg, arguments.kwarg) if item is not None]
    return tuple(item.arg for item in (*every, *extra) if item.arg != "self")


def _defaults(function: ast.FunctionDef) -> dict[str, Any]:
    arguments = function.args
    positional = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
    defaults = dict(zip(positional[::-1], arguments.defaults[::-1], strict=False))
    keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    defaults |= {item.arg: default for item, default in keyword if default is not None}
    return {name: _value(node) for name, node in defaults.items()}


def _value(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ...
    return value if isinstance(value, str | int | float | None) else ...
