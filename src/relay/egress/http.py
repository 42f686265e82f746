"""HTTP to destinations that others choose: one connection for one request, judged where its socket is made."""

import asyncio
import errno
import io
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from relay.core.effect import EffectError, EffectForbidden, EffectUnknown, EffectUnsent
from relay.core.permit import Permit
from relay.egress.addresses import Address
from relay.egress.headers import check_headers
from relay.egress.interim import BoundedConnector
from relay.egress.policy import EgressPolicy
from relay.egress.resolver import PooledResolver
from relay.egress.target import BadTarget, Target, parse_target

MAX_ANSWER: Final = 1024 * 1024
CONNECT_TIMEOUT: Final = 10.0

_MAX_LINE: Final = 8190
_MAX_ANSWER_HEADERS: Final = 128
_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_OWN_HEADERS: Final = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "relay"}


def wire_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a request goes out with, lower-case, besides Host, Content-Length and Connection.

    ValueError when ``headers`` holds one that callers may not set or that is malformed.
    """
    check_headers(headers)
    return {**_OWN_HEADERS, **{name.lower(): value for name, value in headers.items()}}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What the other side said. ``headers`` have lower-case names; repeated ones are joined by a comma.

    ``body`` is what was on the wire, never decompressed. ``truncated`` says that it is not all of it: it exceeded
    the cap, or the connection broke or the time ran out after status and headers had come.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool


class Leave(Protocol):
    """What allows one request: a permit, or the lease of a delivery."""

    def ensure_live(self) -> None:
        """Return while the request may still be begun; raise otherwise."""
        ...


@dataclass(slots=True)
class _Flight:
    """How far one request has come; what failed is judged by this and not by the kind of exception."""

    leave: Leave
    most: int
    left: bool = False
    forbidden: str | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def answer(self, *, truncated: bool) -> HttpAnswer:
        assert self.status is not None
        return HttpAnswer(self.status, self.headers, bytes(self.body[: self.most]), truncated)


class _Lost(Exception):
    """The connection broke after it had been made. Not one of aiohttp's errors, so that aiohttp does not resend."""


class HttpClient:
    """A client that reaches what ``policy`` permits and, with ``hosts``, those hosts only.

    Every request has a connection, a cookie jar and a DNS look-up of its own, so that nothing passes from one
    caller to another. TLS is always verified, against ``ca_file`` alone where it is given. Proxies and
    credentials of the environment are ignored and redirects are answers, never followed.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        hosts: frozenset[str] | None = None,
        *,
        ca_file: str | None = None,
        resolver: AbstractResolver | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        self.policy = policy
        self._hosts = hosts
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._resolver = resolver or PooledResolver()
        self._connect_timeout = connect_timeout
        self._max_answer = max_answer

    def refusal(self, url: str) -> str | None:
        """Say why a request to ``url`` would be refused, without looking any name up; None when nothing is known."""
        try:
            self._admit(url)
        except EffectForbidden as error:
            return error.detail
        return None

    async def request(
        self,
        permit: Permit,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,  # noqa: ASYNC109 - the time-out is part of how an outcome is judged
    ) -> HttpAnswer:
        """Send one request, once, and return the answer, whatever its status.

        ``timeout`` is in seconds and bounds the whole. The permit is checked immediately before the first byte of
        the request is written. :class:`EffectForbidden` when egress denies the destination, :class:`EffectUnsent`
        when nothing was written (unresolvable, unreachable, TLS failed, out of time), :class:`EffectUnknown` when
        something was and no status came back. ValueError for a malformed method or header. A cancellation
        propagates at once; whether bytes had left is then not known.
        """
        return await self._send(permit, method=method, url=url, headers=headers, body=body, timeout=timeout)

    async def _send(
        self,
        leave: Leave,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,  # noqa: ASYNC109 - the time-out is part of how an outcome is judged
    ) -> HttpAnswer:
        """Do what :meth:`request` does, for clients in this package that act under another leave than a permit."""
        target = self._admit(url)
        sent = {**wire_headers(headers), **self.policy.trace_headers(target)}
        if not _METHOD.fullmatch(method):
            raise ValueError("malformed method")
        flight = _Flight(leave, self._max_answer)
        try:
            async with asyncio.timeout(timeout):
                return await self._fly(flight, target, method, sent, body)
        except (aiohttp.ClientError, _Lost, OSError) as error:
            if flight.status is not None:
                return flight.answer(truncated=True)
            raise _classify(flight, error, target) from None

    def _admit(self, url: str) -> Target:
        try:
            target = parse_target(url)
        except BadTarget as error:
            raise EffectForbidden("egress_denied", str(error)) from None
        if self._hosts is not None and target.host not in self._hosts:
            raise EffectForbidden("egress_denied", f"This connector does not connect to {target.host}.")
        reason = self.policy.target_refusal(target)
        if reason is not None:
            raise EffectForbidden("egress_denied", reason)
        return target

    async def _fly(
        self, flight: _Flight, target: Target, method: str, headers: dict[str, str], body: bytes | None
    ) -> HttpAnswer:
        try:
            own = await self.policy.own_addresses(target.port)
        except OSError:
            flight.forbidden = "Relay cannot tell this destination from its own database: its name does not resolve."
            raise
        async with (
            self._session(flight, target, own) as session,
            session.request(
                method,
                URL(target.url, encoded=True),
                headers=headers,
                data=io.BytesIO(body) if body else None,
                allow_redirects=False,
            ) as answer,
        ):
            flight.headers = _joined(answer.headers)
            flight.status = answer.status
            async for chunk in answer.content.iter_any():
                flight.body += chunk
                if len(flight.body) > self._max_answer:
                    return flight.answer(truncated=True)
        return flight.answer(truncated=False)

    def _session(self, flight: _Flight, target: Target, own: frozenset[Address]) -> aiohttp.ClientSession:
        def make_socket(info: Any) -> socket.socket:
            return _checked_socket(self.policy, flight, target, own, info)

        connector = BoundedConnector(
            ssl=self._tls,
            use_dns_cache=False,
            resolver=self._resolver,
            force_close=True,
            socket_factory=make_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            # Only what the preview showed goes out: aiohttp adds nothing but Host, Content-Length and Connection.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_ANSWER_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout),
            trace_configs=[_before_first_byte(flight)],
            middlewares=(_send_once,),
        )


def _checked_socket(
    policy: EgressPolicy, flight: _Flight, target: Target, own: frozenset[Address], info: Any
) -> socket.socket:
    """Make the socket for one numeric peer. Literals and names, however they were resolved, all pass here."""
    family, kind, protocol, _, peer = info
    reason = policy.peer_refusal(peer[0], peer[1], name=target.host, own=own)
    if reason is not None:
        flight.forbidden = reason
        raise PermissionError(errno.EACCES, "refused by egress")
    return socket.socket(family, kind, protocol)


def _before_first_byte(flight: _Flight) -> aiohttp.TraceConfig:
    """Return hooks that run after the connection stands and before aiohttp hands the first byte to it."""

    async def headers_ready(_session: aiohttp.ClientSession, _context: SimpleNamespace, _params: Any) -> None:
        flight.leave.ensure_live()
        flight.left = True

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(headers_ready)
    return config


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending GET, PUT, DELETE and the like again after the connection broke."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Lost from error


def _classify(flight: _Flight, error: BaseException, target: Target) -> EffectError:
    where = target.authority
    if flight.left:
        if isinstance(error, TimeoutError):
            return EffectUnknown("answer_timeout", f"{where} did not answer in time; it may have acted.")
        if isinstance(error, _Lost | OSError):
            return EffectUnknown("connection_lost", f"The connection to {where} broke before an answer came.")
        return EffectUnknown("malformed_answer", f"The answer of {where} could not be read.")
    if flight.forbidden is not None:
        return EffectForbidden("egress_denied", flight.forbidden)
    if isinstance(error, TimeoutError):
        return EffectUnsent("connect_timeout", f"No connection to {where} could be made in time.")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return EffectUnsent("unresolvable", f"The name {target.host} could not be resolved.")
    if isinstance(error, aiohttp.ClientSSLError):
        return EffectUnsent("tls_failed", f"The TLS certificate or handshake of {where} was not acceptable.")
    return EffectUnsent("unreachable", f"No connection to {where} could be made.")


def _joined(headers: Any) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        joined[lower] = f"{joined[lower]}, {value}" if lower in joined else value
    return joined
