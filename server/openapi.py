"""The description of the API that programs read: keys, and errors in their one form."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.keys import SCOPES

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of `vgen keys create`."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
_ERROR = {
    "type": "object",
    "description": "Why a request was refused or failed, as OpenAI's SDKs read it.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                "code": {"type": ["string", "null"]},
                "line": {"type": ["integer", "null"], "description": "The first wrong line of a prompt file."},
                "problems": {
                    "type": "array",
                    "description": "Every mistake of a prompt file, at most sixty.",
                    "items": {
                        "type": "object",
                        "properties": {
                            "message": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "file": {"type": ["string", "null"]},
                            "line": {"type": ["integer", "null"]},
                        },
                    },
                },
            },
        }
    },
}


def describe(app: FastAPI) -> None:
    """Have ``app.openapi()`` say what FastAPI cannot know."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(get_openapi(title=app.title, version=app.version, routes=app.routes))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    components["securitySchemes"] = _KEYS
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    schema["security"] = [{name: []} for name in _KEYS]
    scopes = "\n".join(f"- `{scope}`: {text}" for scope, text in SCOPES.items())
    schema["info"]["description"] = f"Scopes of keys:\n\n{scopes}"
    refused = {
        "description": "Refused or failed; `error.code` says why.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)  # answered as 400
            operation["responses"]["default"] = refused
    return schema
