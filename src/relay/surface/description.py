"""The OpenAPI document as callers need it: who may call, what else must be sent, and what a refusal looks like."""

from collections.abc import Iterable
from typing import Any, Final

from relay.core.access import Door
from relay.surface.declare import GuardedRoute

_METHODS: Final = ("get", "post", "put", "delete", "patch")
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "A refusal (RFC 9457). docs/errors.md has every type and its further members.",
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_REFUSED: Final[dict[str, Any]] = {
    "description": "Refused; the status says why.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: relay_sk_…"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    "chatKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "CHAT_API_KEY, where the installation has one. It opens the chat and nothing else.",
    },
    "operator": {
        "type": "http",
        "scheme": "bearer",
        "description": "METRICS_TOKEN; a direct caller on the machine itself needs none.",
    },
}
_SECURITY: Final[dict[str, Any]] = {"public": [], "signature": [], "operator": [{"operator": []}]}
"""What other credentials than API keys admit."""
_DOORS: Final[dict[Door, str]] = {"chat": "chatKey"}
_OWN_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")


def described(document: dict[str, Any], routes: Iterable[GuardedRoute]) -> dict[str, Any]:
    """Return FastAPI's document with Relay's credentials, required scopes and problems in place of FastAPI's own.

    Scopes stand beside each operation as ``x-required-scopes``, since OpenAPI 3.1 has no place for those of API keys.
    """
    by_path: dict[tuple[str, str], GuardedRoute] = {
        (route.path_format, method.lower()): route for route in routes for method in route.methods or ()
    }
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _OWN_SCHEMAS:
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    components["securitySchemes"] = _SCHEMES
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                _describe(item[method], by_path[path, method])
    return document


def _describe(operation: dict[str, Any], route: GuardedRoute) -> None:
    doors: list[dict[str, list[str]]] = [{_DOORS[door]: []} for door in sorted(route.access.doors)]
    operation["security"] = _SECURITY.get(route.access.auth, [{"bearer": []}, {"apiKey": []}, *doors])
    operation["x-required-scopes"] = sorted(route.access.scopes)
    if "description" in operation:
        operation["description"] = operation["description"].replace("``", "`")
    responses = operation["responses"]
    responses.pop("422", None)
    for answer in responses.values():
        if answer.get("description") == "Successful Response":
            answer["description"] = "Done."
    responses["default"] = _REFUSED
