"""Which destinations may be connected to, judged twice: by name for a preview, by number at the socket."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from relay.egress.addresses import NEVER, Address, Network, embedded, judge, numeric
from relay.egress.own import Endpoint
from relay.egress.target import BadTarget, Target, parse_host, parse_target
from relay.egress.traced import Traced

_NEVER_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data"}
)
_NEVER_SUFFIXES: Final = (".metadata.google.internal", ".metadata.goog", ".metadata.azure.internal", ".instance-data")


@dataclass(frozen=True, slots=True)
class AllowEntry:
    """One entry of EGRESS_ALLOW: a host name or a network, on one port or (None) on all."""

    host: str | None
    network: Network | None
    port: int | None

    def opens(self, address: Address, port: int, name: str) -> bool:
        """Tell whether a connection to ``address``, asked for as ``name``, is what this entry opens."""
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        return self.host == name


def parse_allow_entry(text: str) -> AllowEntry:
    """Return one entry of EGRESS_ALLOW; ValueError names an entry that is malformed or can never be opened.

    Forms: ``host``, ``host:port``, ``10.0.0.0/8``, ``10.0.0.0/8:443``, ``fd00::/8``, ``[fd00::1]:443``,
    ``[fd00::/8]:443``. There are no wildcards.
    """
    rest, port = _split_port(text)
    try:
        network = ipaddress.ip_network(rest)
    except ValueError:
        network = None
    if network is None:
        try:
            return AllowEntry(parse_host(rest), None, port)
        except BadTarget:
            raise ValueError(
                f"EGRESS_ALLOW: {text!r} is neither a host name nor a network (with an optional :port)"
            ) from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"EGRESS_ALLOW: {text!r} must be written as an IPv4 network")
    if any(network.version == never.version and network.subnet_of(never) for never, _ in NEVER):  # type: ignore[arg-type]
        raise ValueError(f"EGRESS_ALLOW: {text!r} is never opened (metadata, link-local or unspecified)")
    return AllowEntry(None, network, port)


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        inner, bracket, tail = text[1:].partition("]")
        if not bracket or ":" not in inner:
            raise ValueError(f"EGRESS_ALLOW: {text!r} has unbalanced brackets or no IPv6 address in them")
        rest, colon, digits = inner, tail[:1], tail[1:]
        if tail and colon != ":":
            raise ValueError(f"EGRESS_ALLOW: {text!r} has something other than a port after its bracket")
    elif text.count(":") == 1:
        rest, colon, digits = text.partition(":")
    else:
        return text, None
    if not colon:
        return rest, None
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise ValueError(f"EGRESS_ALLOW: {text!r} has no valid port after its last colon")
    return rest, int(digits)


class EgressPolicy:
    """Where callers, agents and stored data may make Relay connect to.

    Public addresses are reachable. Special-purpose ones (private, loopback, …) only where an entry of ``allow``
    opens the network, or the name that was asked for. Instance metadata, link-local and unspecified addresses
    and Relay's own endpoints (``own``: its listener, database, Redis) are reachable under no setting.

    ``trace_hosts`` are told of traces (``*.name`` for everything below it); what goes to any other host says nothing of
    them.
    """

    def __init__(
        self, allow: Iterable[str] = (), own: Iterable[Endpoint] = (), *, trace_hosts: Iterable[str] = ()
    ) -> None:
        self._traced = Traced(trace_hosts)
        self._allow = tuple(map(parse_allow_entry, allow))
        self._own = tuple(own)

    def trace_headers(self, target: Target) -> dict[str, str]:
        """Return the headers that tell a target of the trace that the code is in, none for most targets."""
        return self._traced.headers(target.host)

    def refusal(self, url: str) -> str | None:
        """Say why a URL would be refused, without looking any name up; None when nothing is known against it.

        The connection is judged again, by number, when its socket is made.
        """
        try:
            return self.target_refusal(parse_target(url))
        except BadTarget as error:
            return str(error)

    def target_refusal(self, target: Target) -> str | None:
        """Say why a target would be refused, like :meth:`refusal`."""
        if target.address is not None:
            return self.peer_refusal(target.host, target.port, name=target.host)
        if target.host in _NEVER_NAMES or target.host.endswith(_NEVER_SUFFIXES):
            return "Relay never connects to instance metadata."
        if any(own.host == target.host and own.port == target.port for own in self._own):
            return _OWN
        if target.host == "localhost" or target.host.endswith(".localhost"):
            # RFC 6761 section 6.3: these names mean loopback and nothing else.
            reasons = [self.peer_refusal(peer, target.port, name=target.host) for peer in ("127.0.0.1", "::1")]
            return reasons[0] if all(reasons) else None
        return None

    def opens(self, target: Target) -> bool:
        """Tell whether an entry of ``allow`` names this very target: its host, or a network around its address."""
        peers = [target.address] if target.address is not None else []
        if target.host == "localhost" or target.host.endswith(".localhost"):
            peers = [numeric("127.0.0.1"), numeric("::1")]
        return any(
            entry.host == target.host and entry.port in (None, target.port)
            if entry.host is not None
            else any(entry.opens(peer, target.port, target.host) for peer in peers)
            for entry in self._allow
        )

    def peer_refusal(self, peer: str, port: int, *, name: str, own: frozenset[Address] = frozenset()) -> str | None:
        """Say why a socket to the numeric address ``peer`` must not be made; None when it may.

        ``name`` is the host that the caller asked for. ``own`` are the addresses behind Relay's own endpoints that
        are given by name on this port, see :meth:`own_addresses`.
        """
        address = numeric(peer)
        verdict = judge(address)
        shown = f"{name} " if name == peer else f"{name}, which is at an address that is not public "
        if verdict.kind == "never":
            return f"Relay never connects to {shown}({verdict.what})."
        reached = (address, *embedded(address))
        if any(candidate in own or self._is_own(candidate, port) for candidate in reached):
            return _OWN
        if verdict.kind == "public" or any(entry.opens(address, port, name) for entry in self._allow):
            return None
        return f"Relay does not connect to {shown}({verdict.what}). EGRESS_ALLOW can open it."

    async def own_addresses(self, port: int) -> frozenset[Address]:
        """Return where Relay's own endpoints on ``port`` are that are given by name; OSError when one is not found.

        A caller treats the error as a refusal: while the database's address is unknown, its port stays closed.
        """
        loop = asyncio.get_running_loop()
        found: set[Address] = set()
        for own in self._own:
            if own.port == port and own.address is None:
                infos = await loop.getaddrinfo(own.host, port, type=socket.SOCK_STREAM)
                found.update(numeric(str(info[4][0])) for info in infos)
        return frozenset(found)

    def _is_own(self, address: Address, port: int) -> bool:
        for own in self._own:
            if own.port != port or own.address is None:
                continue
            if own.address == address or (own.address.is_unspecified and _is_local(address)):
                return True
        return False


_OWN: Final = "Relay does not connect to its own listener, database or Redis."


def _is_local(address: Address) -> bool:
    """Tell whether this machine answers for ``address``: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
