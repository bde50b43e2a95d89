"""Every route of the server, as it is called."""

import functools
import re
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from fastapi.routing import iter_route_contexts

from server.app import make_api
from server.auth.caller import Permission
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
    """The routes of the API; pages have others."""
    return [route for route, in_pages in _routes() if not in_pages]


def every_page() -> list[Route]:
    """The routes of what a browser shows, the parts of pages and clips among them."""
    return [route for route, in_pages in _routes() if in_pages]


@functools.cache
def _contexts() -> list[Any]:
    return list(iter_route_contexts(api().routes))


def scopes_of(route: Route) -> set[str]:
    """The scopes that a key needs for a route."""
    found: set[str] = set()
    for context in _contexts():
        if context.path == route.path and route.method in (context.methods or ()):
            dependants = [getattr(context, "dependant", None)]
            while dependants:
                if (dependant := dependants.pop()) is None:
                    continue
                dependants += dependant.dependencies
                found |= {dependant.call.scope} if isinstance(dependant.call, Permission) else set()
    return found


def _routes() -> Iterator[tuple[Route, bool]]:
    for context in _contexts():
        in_pages = getattr(context.original_route, "endpoint", None).__module__.startswith("server.pages.")
        for method in sorted(context.methods or ()):
            yield Route(method, str(context.path)), in_pages
