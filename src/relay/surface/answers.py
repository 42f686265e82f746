"""Answers as ASGI messages: JSON bodies, problems (RFC 9457), and the headers that every answer carries."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.types import Send

from relay.core.limit import Quota
from relay.core.problem import Problem
from relay.crypto.api_key import API_KEY_PATTERN
from relay.limits.headers import quota_headers

Header = tuple[bytes, bytes]

JSON_TYPE: Final = b"application/json"
PROBLEM_TYPE: Final = b"application/problem+json"

BASE_HEADERS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (
        b"permissions-policy",
        b"accelerometer=(), browsing-topics=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), "
        b"microphone=(), midi=(), payment=(), publickey-credentials-get=(), screen-wake-lock=(), usb=()",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-xss-protection", b"0"),
)
HSTS: Final[Header] = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")

_OVERRIDABLE: Final = frozenset((b"cache-control", b"content-security-policy"))
"""What an answer may say about itself; the rest is the same for every answer."""


@dataclass(frozen=True, slots=True)
class EmptyAnswer:
    """An answer that the edge gives by itself, without a route: it has no body, so that it can carry nothing out."""

    status: Literal[204, 308]
    headers: tuple[Header, ...]


async def send_json(
    send: Send, status: int, body: bytes, media_type: bytes = JSON_TYPE, extra: Iterable[Header] = ()
) -> None:
    """Send one complete answer."""
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: Problem, instance: str, request_id: str) -> None:
    """Send a problem document with the headers that the problem asks for; a key in the path is not repeated."""
    instance = API_KEY_PATTERN.sub("relay_sk_***", instance)
    body = json.dumps(problem.document(instance, request_id), ensure_ascii=False, separators=(",", ":")).encode()
    await send_json(send, problem.status, body, PROBLEM_TYPE, raw_headers(problem.headers))


def raw_headers(headers: Mapping[str, str]) -> list[Header]:
    """Return headers in ASGI's form."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def document_headers(
    sent: Iterable[Header], request_id: bytes, base: Iterable[Header] = BASE_HEADERS, quotas: Sequence[Quota] = ()
) -> list[Any]:
    """Return ``sent`` with the request id, the quotas and ``base``, but for what the answer says about itself."""
    headers = list(sent)
    own = [name for name, _ in headers if name in _OVERRIDABLE]
    if quotas:
        headers.extend(quota_headers(quotas, _retry_after(headers)))
    headers.append((b"x-request-id", request_id))
    headers.extend([header for header in base if header[0] not in own] if own else base)
    return headers


def _retry_after(headers: Iterable[Header]) -> int | None:
    for name, value in headers:
        if name == b"retry-after":
            return int(value)
    return None
