"""The description of the API: valid, and complete."""

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from cli.reference import JSON_OUTPUT
from server.app import make_api
from server.openai.field_names import ACCEPTED
from server.openai.request_schema import request_body
from server.reference import page
from service.keys import SCOPES
from tests.conftest import REPOSITORY
from tests.unit.server.routes import api, every_route, scopes_of


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    schema: dict[str, Any] = api().openapi()
    return schema


def test_it_is_valid_openapi(description: dict[str, Any]) -> None:
    validate(description)


def test_it_has_every_route(description: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, methods in description["paths"].items() for method in methods}

    # The description's own path is not in it, and it names a parameter without what may stand there
    routes = {(method, re.sub(r":\w+}", "}", path)) for method, path in every_route() if path != "/openapi.json"}
    assert len(routes) > 20
    assert described == routes


def test_each_operation_says_what_it_does_and_how_it_fails(description: dict[str, Any]) -> None:
    operations = [operation for methods in description["paths"].values() for operation in methods.values()]

    assert all(operation["description"].endswith(".") for operation in operations)
    assert all("default" in operation["responses"] for operation in operations)
    assert not any("422" in operation["responses"] for operation in operations)  # answered as 400
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)


def test_what_is_answered_is_what_the_command_line_prints(description: dict[str, Any]) -> None:
    answers = [
        operation["responses"]["200"]["content"]["application/json"]["schema"]
        for path, methods in description["paths"].items()
        for operation in methods.values()
        if path.startswith("/api/v1")
    ]

    views = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(answers)))
    assert len(views) > 9
    assert views - {view.__name__ for view in JSON_OUTPUT.values()} == {"EventsPageView"}


def test_every_scope_is_in_the_documentation(description: dict[str, Any]) -> None:
    documented = re.findall(
        r"^\| `([a-z.]+)` \|", (REPOSITORY / "docs" / "serving.md").read_text("utf-8"), re.MULTILINE
    )

    assert documented == list(SCOPES)
    assert all(f"`{scope}`" in description["info"]["description"] for scope in SCOPES)


def test_every_scope_allows_something() -> None:
    assert set().union(*(scopes_of(route) for route in every_route())) == set(SCOPES)


def test_every_field_of_a_request_for_videos_is_described() -> None:
    schema = request_body("prompt")["requestBody"]["content"]["application/json"]["schema"]
    assert list(schema["properties"]) == ACCEPTED


def test_the_page_is_not_stale() -> None:
    printed = page(make_api().openapi())
    assert printed == (REPOSITORY / "docs" / "http-api.md").read_text("utf-8"), (
        "run `python -m server.reference > docs/http-api.md`"
    )


def test_the_reference_says_between_which_numbers_a_parameter_lies(description: dict[str, Any]) -> None:
    bounded = [
        (parameter["name"], schema["maximum"])
        for methods in description["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
        for schema in (parameter["schema"], *parameter["schema"].get("anyOf", ()))
        if "maximum" in schema
    ]

    assert {name for name, _ in bounded} == {"limit", "wait"}
    for name, most in bounded:
        assert re.search(rf"`{name}` \| query \| (whole )?number from \d+ to {most:g} ", page(description))
