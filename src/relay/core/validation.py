"""Validation errors for people: a JSON Pointer (RFC 6901) and a sentence, never the value that was sent."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from relay.core.pointer import pointer_of
from relay.core.problem import Invalid

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: Any, prefix: str = "") -> M:
    """Return ``value`` as ``model``, or 422 with every place that is wrong, pointers below ``prefix``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error, prefix) from None


def printable(text: str) -> str:
    """Return a line of text; ValueError when it holds what a terminal would obey, or a database refuse, such as NUL."""
    if not text.isprintable():
        raise ValueError("printable characters only, in one line")
    return text


def invalid(error: ValidationError, prefix: str = "") -> Invalid:
    """Return pydantic's findings as a problem."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    errors = [
        {"pointer": prefix + pointer_of(item["loc"]), "message": item["msg"].removeprefix("Value error, ")}
        for item in found[:20]
    ]
    return Invalid("The request is not valid; see errors.", errors=errors)
