"""The description of the interface: valid, whole, and what docs/http-api.md was written from."""

from __future__ import annotations

from pathlib import Path

from openapi_spec_validator import validate

from server.app import make_api
from server.openai.fields import ACCEPTED
from server.openai.request_schema import request_body
from server.reference import page

PAGE = Path(__file__).parents[3] / "docs" / "http-api.md"


def test_it_is_valid_and_every_operation_is_described_and_named_once() -> None:
    openapi = make_api().openapi()
    validate(openapi)
    operations = [operation for methods in openapi["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert [operation for operation in operations if not operation.get("description")] == []


def test_every_field_that_is_read_is_described() -> None:
    schema = request_body("prompt")["requestBody"]["content"]["application/json"]["schema"]
    assert list(schema["properties"]) == ACCEPTED


def test_the_page_is_not_stale() -> None:
    assert page(make_api().openapi()) == PAGE.read_text("utf-8"), "run `python -m server.reference > docs/http-api.md`"
