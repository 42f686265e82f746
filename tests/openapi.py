"""The OpenAPI document as it is committed: ``python -m tests.openapi`` writes ``docs/openapi.json`` anew.

It also writes the routes that ``relay doctor --url`` asks without a credential.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from relay.store.target import parse_target
from tests.gateway import open_gateway

SNAPSHOT = Path(__file__).parents[1] / "docs" / "openapi.json"
GUARDED = Path(__file__).parents[1] / "src/relay/doctor/outside/routes.txt"


def text_of(document: dict[str, Any]) -> str:
    """Return the document as it is written down, so that a change shows up line by line."""
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def guarded_of(document: dict[str, Any]) -> str:
    """Return method and path of each route that wants a credential; ``/metrics``, which has a check of its own, not."""
    return "".join(
        f"{method.upper()} {path}\n"
        for path, methods in sorted(document["paths"].items())
        for method, operation in sorted(methods.items())
        if operation["security"] and path != "/metrics"
    )


async def current() -> dict[str, Any]:
    """Return the document of an installation with every route."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        data.mkdir(mode=0o700)
        async with open_gateway(parse_target(None, data), data) as gateway:
            return gateway.server.fastapi.openapi()


if __name__ == "__main__":
    found = asyncio.run(current())
    SNAPSHOT.write_text(text_of(found))
    GUARDED.write_text(guarded_of(found))
