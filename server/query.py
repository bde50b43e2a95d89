"""Query parameters that a route does not have are refused: one that does nothing is worse than an error."""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from pipeline.nearest import did_you_mean
from pipeline.prompts.numbers import show
from server.errors import ApiError
from service.keys import PREFIX

LENIENT = "lenient"


def is_lenient(request: Request) -> bool:
    """Return whether the client wants what nobody knows left out and told, not refused."""
    return request.query_params.get(LENIENT, "") in ("1", "true")


async def known_query(request: Request) -> None:
    """Refuse parameters that the route does not read. Raises ApiError: 400, which names the first."""
    route = request.scope.get("route")
    # A key in a URL is refused by the check of keys, which says what is to be done now.
    if (
        not request.query_params
        or not isinstance(route, APIRoute)
        or PREFIX in request.url.query
        or is_lenient(request)
    ):
        return
    known = [LENIENT, *_names(route.dependant)]
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        lines = [f"{name[:80]}: is not a query parameter of this path{_hint(name, known)}" for name in unknown[:10]]
        raise ApiError(400, "\n".join(lines), code="unknown_parameter", param=unknown[0][:80])


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)


def _hint(name: str, known: list[str]) -> str:
    near = did_you_mean(name, known).strip()
    if near:
        return f" ({near})"
    others = [other for other in known if other != LENIENT]
    return f": it has {', '.join(map(show, others))}" if others else ""
