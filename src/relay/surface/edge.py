"""What is settled about a request before any route is looked for: who calls, by which host, scheme and origin."""

import re
from typing import Final
from urllib.parse import quote

from starlette.types import Scope

from relay.core.facts import RequestFacts
from relay.core.forwarding import is_forwarded
from relay.core.ids import new_id
from relay.core.networks import address_of
from relay.core.problem import HttpsRequired
from relay.limits.client_address import ProxyTrust
from relay.settings.model import Settings
from relay.surface.answers import BASE_HEADERS, HSTS, EmptyAnswer, Header
from relay.surface.cors import VARY, Cors, Declared
from relay.surface.hosts import Hosts, is_loopback_host
from relay.telemetry.redaction import redact_text

METRICS: Final = "/metrics"
"""Path that Prometheus asks of each replica by the replica's own address, which no public URL names."""
PROBES: Final = frozenset({"/health", "/ready"})
"""Paths that orchestrators ask by whatever address they know, over plain HTTP."""

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")
_AS_IT_IS: Final = "/%:=&?~+!$,;'@()*[]"


def _kept(given: bytes | None) -> str | None:
    """Return a caller's own request id if it is one; a credential sent by mistake would be recorded for ever."""
    if given is None or _REQUEST_ID.fullmatch(given) is None:
        return None
    text = given.decode()
    return text if redact_text(text) == text else None


class Edge:
    """The outermost rules of one installation; without arguments those of one that only this machine can reach."""

    def __init__(
        self,
        *,
        trust: ProxyTrust | None = None,
        public_url: str | None = None,
        bind: str = "127.0.0.1",
        cors: Cors | None = None,
        hsts: bool = False,
    ) -> None:
        self._trust = trust or ProxyTrust((), "x-forwarded-for")
        self._hosts = Hosts(public_url, bind)
        self._https = public_url if public_url is not None and public_url.startswith("https:") else None
        self._cors = cors or Cors(())
        self._headers = {
            "http": self._by_origin(()),
            "https": self._by_origin((HSTS,) if hsts else ()),
        }

    def facts_of(self, scope: Scope) -> RequestFacts:
        """Return the facts of a request; a well-formed ``X-Request-ID`` of the caller is kept."""
        headers, client = scope["headers"], scope.get("client")
        peer = client[0] if client else ""
        address, scheme = self._trust.caller(peer, scope["scheme"], headers)
        facts = RequestFacts("", address, scope["method"], headers, peer=peer, scheme=scheme)
        given = facts.header(b"x-request-id")
        facts.request_id = _kept(given) or new_id("req")
        return facts

    def headers(self, facts: RequestFacts | None) -> tuple[Header, ...]:
        """Return what every answer to this request carries; without facts, what one to an unreadable request does."""
        if facts is None:
            return self._headers["http"][None]
        table = self._headers[facts.scheme]
        return table.get(facts.header(b"origin") if self._cors.origins else None) or table[None]

    def answer(self, scope: Scope, facts: RequestFacts, declared: Declared) -> EmptyAnswer | None:
        """Return the answer of the edge itself: a redirect to HTTPS, or that to a preflight; None for the application.

        Refused with 400 and 421 by ``Host``, with 403 when it came over plain HTTP and should not.
        """
        path = scope["path"]
        if path in PROBES or (path == METRICS and not is_forwarded(name for name, _ in facts.headers)):
            return None
        host = facts.header(b"host")
        self._hosts.require(host, scope.get("server"))
        if self._https is not None and facts.scheme != "https" and not _is_direct(facts, host):
            return self._to_https(self._https, scope, facts)
        return self._cors.preflight(facts, scope["path"], declared) if facts.method == "OPTIONS" else None

    def _to_https(self, public_url: str, scope: Scope, facts: RequestFacts) -> EmptyAnswer:
        if not self._trust.tells_scheme(facts.peer, facts.headers) and is_forwarded(name for name, _ in facts.headers):
            # Redirecting would go round in circles: the caller may well have come by HTTPS already.
            raise HttpsRequired(
                "A proxy sent this, and nothing that can be trusted says that it came over HTTPS. The proxy must stand "
                "in TRUSTED_PROXIES and name the scheme."
            )
        if facts.method not in ("GET", "HEAD"):
            raise HttpsRequired(
                f"Use {public_url}. What was sent over plain HTTP may have been read on its way: replace the key."
            )
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = quote(scope["raw_path"] + query, safe=_AS_IT_IS)
        return EmptyAnswer(308, ((b"location", f"{public_url}{target}".encode("ascii")), (b"content-length", b"0")))

    def _by_origin(self, more: tuple[Header, ...]) -> dict[bytes | None, tuple[Header, ...]]:
        """Return the headers for each origin, and under None those for every other; made once."""
        common = (*BASE_HEADERS, *more, *((VARY,) if self._cors.origins else ()))
        return {None: common, **{origin: (*common, *self._cors.headers(origin)) for origin in self._cors.origins}}


def edge_of(settings: Settings) -> Edge:
    """Return the edge that the settings describe."""
    return Edge(
        trust=ProxyTrust(settings.trusted_proxies, settings.trusted_proxy_header),
        public_url=settings.public_url,
        bind=settings.host,
        cors=Cors(settings.cors_origins),
        hsts=settings.env == "production",
    )


def _is_direct(facts: RequestFacts, host: bytes | None) -> bool:
    """Say whether the request came from this machine by no proxy: its socket, its ``Host`` and its headers say so."""
    peer = address_of(facts.peer)
    return (
        peer is not None
        and peer.is_loopback
        and is_loopback_host(host)
        and not is_forwarded(name for name, _ in facts.headers)
    )
