"""Answers as ASGI messages: JSON bodies, problems (RFC 9457), and the headers that every answer carries."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.types import Send

from relay.core.problem import Problem

Header = tuple[bytes, bytes]

JSON_TYPE: Final = b"application/json"
PROBLEM_TYPE: Final = b"application/problem+json"

BASE_HEADERS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


async def send_json(
    send: Send, status: int, body: bytes, media_type: bytes = JSON_TYPE, extra: Iterable[Header] = ()
) -> None:
    """Send one complete answer."""
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem, instance: str, request_id: str) -> None:
    """Send a problem document with the headers that the problem asks for."""
    body = json.dumps(problem.document(instance, request_id), ensure_ascii=False, separators=(",", ":")).encode()
    await send_json(send, problem.status, body, PROBLEM_TYPE, raw_headers(problem.headers))


def raw_headers(headers: Mapping[str, str]) -> list[Header]:
    """Return headers in ASGI's form."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def document_headers(sent: Iterable[Header], request_id: bytes) -> list[Any]:
    """Return ``sent`` with the request id and every base header that the answer did not set itself."""
    headers = list(sent)
    names = {name for name, _ in headers}
    headers.append((b"x-request-id", request_id))
    headers.extend(header for header in BASE_HEADERS if header[0] not in names)
    return headers
