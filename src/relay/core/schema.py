"""JSON Schemas of models, made once: making one takes a millisecond."""

from functools import cache
from typing import Any

from pydantic import BaseModel


@cache
def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of what a model takes. It is one and the same for every caller, who must not change it."""
    return model.model_json_schema(mode="validation")
