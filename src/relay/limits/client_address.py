"""Who is at the other end, and by which scheme: from the socket, or from what trusted proxies say about it.

A forwarding header counts only where the peer is one of the operator's proxies. Its entries are walked from the right,
where the nearest proxy writes, past further trusted ones; the first that is not trusted is the client. What stands left
of it was written by the client and means nothing, so the leftmost entry is never taken because it is the leftmost.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from relay.core.facts import RawHeaders
from relay.core.networks import Address, Network, address_of, unmapped

ProxyHeader = Literal["x-forwarded-for", "forwarded"]

_SCHEMES: Final = {b"http": "http", b"https": "https"}
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\](?::\d{1,5})?|([0-9.]+):\d{1,5}", re.ASCII)
_SPACE: Final = b" \t"


class Caller(NamedTuple):
    """The client's address, empty when it is not known, and the scheme by which it came: ``http`` or ``https``."""

    address: str
    scheme: str


class _Hop(NamedTuple):
    address: Address | None
    scheme: str | None


class ProxyTrust:
    """Which peers are proxies, and which header they write. Pure; made once."""

    __slots__ = ("_forwarded", "_networks")

    def __init__(self, networks: Iterable[Network], header: ProxyHeader) -> None:
        self._networks = tuple(unmapped(network) for network in networks)
        self._forwarded = header == "forwarded"

    def caller(self, peer: str, scheme: str, headers: RawHeaders) -> Caller:
        """Return the caller of one request. Total over whatever ``headers`` hold (names in lower case).

        ``peer`` and ``scheme`` are the socket's. An entry that is no address (``unknown``, an obfuscated ``_name``, RFC
        7239, 6.3, or garbage) ends the walk: the caller is then the trusted hop that wrote it.
        """
        nearest = address_of(peer)
        if nearest is None:
            return Caller("", scheme)
        if not self._networks or not self._trusts(nearest):
            return Caller(str(nearest), scheme)
        hops = _forwarded(headers) if self._forwarded else _x_forwarded_for(headers)
        found = nearest
        for hop in hops:
            # Of several proxies the one furthest out that is trusted saw the client's own connection.
            scheme = hop.scheme or scheme
            if hop.address is None:
                break
            found = hop.address
            if not self._trusts(found):
                break
        return Caller(str(found), scheme if self._forwarded else _x_forwarded_proto(headers) or scheme)

    def tells_scheme(self, peer: str, headers: RawHeaders) -> bool:
        """Say whether the peer is a trusted proxy that names the scheme of the caller."""
        # Whatever the socket's own scheme is, the answer is the same: what was told has replaced it.
        return len({self.caller(peer, scheme, headers).scheme for scheme in ("http", "https")}) == 1

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def client_address(
    peer: str, headers: RawHeaders, trusted_networks: Iterable[Network], header_choice: ProxyHeader
) -> str:
    """Return the client's address alone; see :meth:`ProxyTrust.caller`."""
    return ProxyTrust(trusted_networks, header_choice).caller(peer, "http", headers).address


def _x_forwarded_for(headers: RawHeaders) -> Iterator[_Hop]:
    """Yield the entries of every ``X-Forwarded-For`` line, joined as RFC 9110, 5.3 says, the last one first."""
    # A trailing comma is an entry of a proxy that knew no address; it must not make the one before it count.
    for entry in reversed(_joined(headers, b"x-forwarded-for").split(b",")):
        yield _Hop(_node(entry), None)


def _x_forwarded_proto(headers: RawHeaders) -> str | None:
    """Return the scheme that the nearest proxy names, None when that is none."""
    return _SCHEMES.get(_joined(headers, b"x-forwarded-proto").rpartition(b",")[2].strip(_SPACE).lower())


def _forwarded(headers: RawHeaders) -> Iterator[_Hop]:
    """Yield the elements of every ``Forwarded`` line (RFC 7239, 4), the last one first."""
    for element in _elements_from_right(_joined(headers, b"forwarded")):
        yield _element(element)


def _elements_from_right(text: bytes) -> Iterator[bytes]:
    """Split at commas outside quotes, beginning at the end.

    From the left, a quote that the client opened and did not close would swallow what the proxies appended.
    """
    end, quoted = len(text), False
    for position in range(len(text) - 1, -1, -1):
        char = text[position]
        if char == 0x22:
            quoted = not quoted
        elif char == 0x2C and not quoted:
            yield text[position + 1 : end]
            end = position
    yield text[:end]


def _element(element: bytes) -> _Hop:
    """Return what one element says; one that names anything twice says nothing."""
    said: dict[bytes, bytes] = {}
    for pair in element.split(b";"):
        name, _, value = pair.partition(b"=")
        key = name.strip(_SPACE).lower()
        if key in said:
            return _Hop(None, None)
        said[key] = value
    scheme = _SCHEMES.get(_unquoted(said.get(b"proto", b"")).lower())
    return _Hop(_node(said.get(b"for", b"")), scheme)


def _node(value: bytes) -> Address | None:
    """Return the address of a node: bare, with a port, in brackets, in quotes; None for what is no address."""
    try:
        text = _unquoted(value).decode("ascii")
    except UnicodeDecodeError:
        return None
    match = _WITH_PORT.fullmatch(text)
    return address_of(text if match is None else match[1] or match[2])


def _unquoted(value: bytes) -> bytes:
    """Return a value without surrounding space and without its quotes. No address or scheme needs an escape."""
    value = value.strip(_SPACE)
    if len(value) >= 2 and value[:1] == value[-1:] == b'"':
        return value[1:-1]
    return value


def _joined(headers: RawHeaders, wanted: bytes) -> bytes:
    return b",".join([value for name, value in headers if name == wanted])
