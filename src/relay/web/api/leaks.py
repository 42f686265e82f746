"""Reports of leaked keys: anybody may make one, and learns nothing from it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from pydantic import BaseModel

from relay.core.access import Access
from relay.identity.api_keys import ApiKeys
from relay.identity.leak_report import MAX_TOKENS, Signers, read_report
from relay.surface.body import KIB, read_body
from relay.surface.declare import Call, Routes

ANSWER_SECONDS: Final = 0.2
"""After which time a report is answered, whatever it named: longer than any look-up of keys should take."""
_BODY_LIMIT: Final = 256 * KIB
_BODY_SECONDS: Final = 10.0

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_SCHEMA: Final[dict[str, Any]] = {
    "title": "LeakReport",
    "description": "One token, or several as GitHub's secret scanning reports them.",
    "oneOf": [
        {"type": "object", "properties": {"token": _TEXT}, "required": ["token"]},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"token": _TEXT, "type": _TEXT, "url": _TEXT, "source": _TEXT},
                "required": ["token"],
            },
        },
    ],
}


class LeakReported(BaseModel):
    """The report has arrived. Whether it named a key is never said."""

    received: bool = True


def leaks_routes(api_keys: ApiKeys, signers: Signers | None) -> Routes:
    """Return the route. ``signers`` are the public keys of GitHub's secret scanning, None where none are known."""
    routes = Routes()

    @routes.post(
        "/keys/report-leak",
        access=Access("public", frozenset(), ("leak_reports",), "api:keys:report_leak"),
        body_limit=_BODY_LIMIT,
        status_code=202,
        summary="Report leaked keys",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": _SCHEMA}}}},
    )
    async def report_leak(call: Call) -> LeakReported:
        """Revoke every live key that is named: holding it is proof enough, whoever reports it.

        The answer is the same, and comes after the same time, whatever was sent.
        """
        async with _even():
            body = await read_body(call.facts, call.receive, _BODY_LIMIT, _BODY_SECONDS)
            signed = signers is not None and signers.signed(call.facts, body)
            leaked = read_report(body, signed=signed)[:MAX_TOKENS]
            await api_keys.report_leaks(leaked, "github" if signed else "unsigned report", request_id=call.request_id)
        return LeakReported()

    return routes


@asynccontextmanager
async def _even() -> AsyncIterator[None]:
    """Last :data:`ANSWER_SECONDS` at least."""
    clock = asyncio.get_running_loop().time
    until = clock() + ANSWER_SECONDS
    yield
    await asyncio.sleep(max(0.0, until - clock()))
