"""Every route of the server, as it is called."""

import re
import threading
from typing import Any, NamedTuple, cast

from fastapi.routing import iter_route_contexts

from server.app import make_api
from server.database import Line

PUBLIC = frozenset({"/openapi.json", "/health", "/healthz", "/readyz"})
"""Paths that answer without a key: the routes' list, and probes of load balancers, which have none."""


class Route(NamedTuple):
    """One method of one path."""

    method: str
    path: str

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)(?::\w+)?}", self.path)

    def at(self, **values: str) -> str:
        """The path with these values for its parameters."""
        return re.sub(r"{(\w+)(?::\w+)?}", lambda match: values[match[1]], self.path)


def api() -> Any:
    """The application without a database."""
    return make_api(Line(cast(Any, None), cast(Any, None), threading.Event()))


def every_route() -> list[Route]:
    contexts = iter_route_contexts(api().routes)
    return [Route(method, str(context.path)) for context in contexts for method in sorted(context.methods or ())]
