"""The Jinja2 environment of all pages: everything is escaped, and an undefined name is an error."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.html.texts import visible

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
"""The folder of the stylesheet and the script; a server serves it, other pages hold what they need of it."""


def environment(*loaders: BaseLoader) -> Environment:
    """Return an environment with the templates of these loaders, and then the shared ones.

    Marks in a value that would turn the text around them are replaced by visible ones, in attributes too;
    ``{{ value|e }}`` writes it as it is, for a form that hands it back.
    """
    made = Environment(
        loader=ChoiceLoader([*loaders, FileSystemLoader(_HERE / "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.globals["static_text"] = _static_markup
    return made


def render(template: str, /, **values: Any) -> str:
    """Return the page of a shared template."""
    return _shared().get_template(template).render(values)


@cache
def static_text(name: str) -> str:
    """Return the text of a file in ``STATIC``."""
    return (STATIC / name).read_text("utf-8")


@cache
def _shared() -> Environment:
    return environment()


def _static_markup(name: str) -> Markup:
    return Markup(static_text(name))


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
