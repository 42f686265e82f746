"""Which ``Host`` a request may name. A name that somebody else can point here would let her page act as this origin.

DNS rebinding: a page of ``evil.example`` makes its own name resolve to 127.0.0.1 and is then, to a browser, the origin
of whatever listens there. What it cannot do is to send another ``Host`` than its own name.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from relay.core.networks import Address, address_of
from relay.core.problem import BadRequest, Misdirected

Server = tuple[str, int | None] | None

_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[0-9a-z._-]{1,253})(?::([0-9]{1,5}))?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Hosts:
    """The rule of one installation. Allowed are, beside the host and port of ``public_url``:

    the very address and port that the caller has connected to; over loopback also ``localhost``, ``127.0.0.1`` and
    ``[::1]`` with that port; and with a wildcard bind and no public URL any numeric address and ``localhost`` with any
    port, since inside a container neither is known, and no numeric address can be rebound.
    """

    def __init__(self, public_url: str | None, bind: str) -> None:
        self._public = _authorities(public_url)
        address = address_of(bind)
        self._any_number = public_url is None and address is not None and address.is_unspecified
        self._judged = lru_cache(maxsize=1024)(self._judge)

    def require(self, host: bytes | None, server: Server) -> None:
        """Refuse with 400 what is not exactly one well-formed ``Host`` (RFC 9112, 3.2), with 421 another server's.

        ``server`` is the local end of the caller's connection.
        """
        if host is None or len(host) > 300:
            raise BadRequest("Send exactly one Host header.")
        allowed = self._judged(host, server)
        if allowed is None:
            raise BadRequest("The Host header is malformed.")
        if not allowed:
            raise Misdirected("Relay does not answer under this Host. The operator names it with RELAY_PUBLIC_URL.")

    def _judge(self, host: bytes, server: Server) -> bool | None:
        parts = _parts(host)
        if parts is None:
            return None
        name, port = parts
        if (name, port) in self._public:
            return True
        number = address_of(name)
        if self._any_number and (number is not None or name == "localhost"):
            return True
        here = None if server is None else address_of(server[0])
        if here is None or server is None or (port or _DEFAULT_PORTS["http"]) != server[1]:
            return False
        return number == here if number is not None and not here.is_loopback else _is_local(name, number, here)


def _is_local(name: str, number: Address | None, here: Address) -> bool:
    return here.is_loopback and (name in _LOCAL_NAMES or number == here)


def is_loopback_host(host: bytes | None) -> bool:
    """Say whether a ``Host`` names this machine by ``localhost`` or a loopback address."""
    parts = None if host is None else _parts(host)
    if parts is None:
        return False
    number = address_of(parts[0])
    return parts[0] == "localhost" if number is None else number.is_loopback


def _parts(host: bytes) -> tuple[str, int | None] | None:
    """Return name (an IPv6 address without its brackets) and port; None for what is no host."""
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    if match is None:
        return None
    name = match[1].strip("[]")
    if match[1].startswith("[") and address_of(name) is None:
        return None
    return name, int(match[2]) if match[2] else None


def _authorities(public_url: str | None) -> frozenset[tuple[str, int | None]]:
    """Return what may stand in ``Host`` for a URL: browsers leave a default port out, others may not."""
    if public_url is None:
        return frozenset()
    url = urlsplit(public_url)
    name = url.hostname or ""
    if url.port is not None and url.port != _DEFAULT_PORTS[url.scheme]:
        return frozenset({(name, url.port)})
    # Port 80 as well where the URL is https: there the redirect to it is answered.
    return frozenset({(name, None), (name, _DEFAULT_PORTS[url.scheme]), (name, _DEFAULT_PORTS["http"])})
