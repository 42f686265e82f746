"""Which web pages elsewhere may call (Fetch standard, CORS). Credentials are never allowed: a key is sent by hand.

An origin that is not on the list gets no CORS header at all, which is how a browser is told no.
"""

from collections.abc import Iterable
from typing import Final, Protocol

from relay.core.facts import RequestFacts
from relay.surface.answers import EmptyAnswer, Header

ALLOWED_HEADERS: Final = b"authorization, content-type, idempotency-key, last-event-id, x-api-key, x-request-id"
EXPOSED_HEADERS: Final = (
    b"ratelimit, ratelimit-policy, retry-after, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, "
    b"x-request-id"
)
PREFLIGHT_SECONDS: Final = 600
VARY: Final[Header] = (b"vary", b"Origin")


class Declared(Protocol):
    """Knows the routes that start-up has sealed."""

    def __call__(self, path: str) -> frozenset[str]:
        """Return the methods that are declared for a path; none where there is no route."""
        ...


class Cors:
    """The allowed origins, each compared as a whole. Without any there is no CORS and nothing varies."""

    def __init__(self, origins: Iterable[str]) -> None:
        self.origins: Final = frozenset(origin.encode("ascii") for origin in origins)

    def headers(self, origin: bytes) -> tuple[Header, ...]:
        """Return what an answer to an allowed origin carries beside :data:`VARY`."""
        return ((b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED_HEADERS))

    def preflight(self, facts: RequestFacts, path: str, declared: Declared) -> EmptyAnswer | None:
        """Return the answer to a preflight of an allowed origin for a declared route and method; None for all else.

        It is the same whoever asks, tells what the OpenAPI document tells, and runs nothing.
        """
        if facts.method != "OPTIONS" or facts.header(b"origin") not in self.origins:
            return None
        method = facts.header(b"access-control-request-method")
        methods = declared(path)
        if method is None or method.decode("latin-1") not in methods:
            return None
        return EmptyAnswer(
            204,
            (
                (b"access-control-allow-methods", ", ".join(sorted(methods)).encode("ascii")),
                (b"access-control-allow-headers", ALLOWED_HEADERS),
                (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
            ),
        )
