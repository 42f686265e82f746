"""One strict reading of an outbound URL, so that what was checked is what is connected to.

Whatever two parsers could read differently (RFC 3986 against WHATWG) is refused rather than interpreted.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from relay.egress.addresses import Address, numeric

MAX_URL: Final = 8 * 1024

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]*")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{0,5}))?")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PATH: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]]|%[0-9A-Fa-f]{2})*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class BadTarget(ValueError):
    """The URL is not one that Relay sends to. The message never repeats it, since it may hold a secret."""


@dataclass(frozen=True, slots=True)
class Target:
    """An absolute http(s) URL in parts. ``host`` is lower-case ASCII, an IPv6 address without its brackets."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    query: str

    @property
    def address(self) -> Address | None:
        """The numeric address when the host is a literal, else None."""
        try:
            return numeric(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """Host and, where it is not the scheme's own, port, as in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL as it is used on the wire."""
        return f"{self.scheme}://{self.authority}{self.path}" + (f"?{self.query}" if self.query else "")


def parse_target(url: str) -> Target:
    """Return the parts of an absolute http(s) URL; :class:`BadTarget` says in a sentence why it is none.

    Refused are: other schemes, user names, fragments, more than 8 KiB, anything but printable ASCII (a name in
    another script is given as ``xn--…``, a path percent-encoded), a percent sign in the host, trailing dots, and
    every spelling of a numeric address but dotted decimal and bracketed IPv6 without a zone. IPv4-mapped IPv6
    (``::ffff:0:0/96``) is a second spelling of an IPv4 address, by which one host would have two names in rules.
    """
    if len(url) > MAX_URL:
        raise BadTarget("The URL is longer than 8 KiB.")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise BadTarget("The URL must be printable ASCII: percent-encode it, and write the host in its xn-- form.")
    if "#" in url:
        raise BadTarget("The URL must have no fragment (#…).")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or (scheme != "http" and scheme != "https"):
        raise BadTarget("The URL must begin with http:// or https://.")
    location, _, query = rest.partition("?")
    authority, _, path = location.partition("/")
    if "@" in authority:
        raise BadTarget("The URL must not hold a user name or password.")
    host, port = _host_and_port(authority.lower(), _DEFAULT_PORTS[scheme])
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        raise BadTarget("The URL's path or query holds characters that must be percent-encoded.")
    return Target("http" if scheme == "http" else "https", host, port, f"/{path}", query)


def _host_and_port(authority: str, default_port: int) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise BadTarget("The URL's host or port is malformed.")
    port = int(match[2]) if match[2] else default_port
    if not 0 < port < 65536:
        raise BadTarget("The URL's port must lie between 1 and 65535.")
    return parse_host(match[1]), port


def parse_host(text: str) -> str:
    """Return a host as it is compared: a lower-case name, or an address without brackets; else BadTarget."""
    host = text.lower()
    if host.startswith("["):
        return _ipv6(host)
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        return _ipv4(host)
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise BadTarget("The host is not a plain name: ASCII letters, digits, hyphens and single inner dots.")
    return host


def _ipv6(host: str) -> str:
    if not host.endswith("]") or "%" in host:
        raise BadTarget("The host is not a plain IPv6 address (zones are not accepted).")
    try:
        address = ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        raise BadTarget("The host is not an IPv6 address.") from None
    if address.ipv4_mapped is not None:
        raise BadTarget("An IPv4-mapped IPv6 address must be written as the IPv4 address that it stands for.")
    return address.compressed


def _ipv4(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        # 2130706433, 0177.0.0.1, 0x7f000001, 127.1 and 127.0.0.1. are all loopback to some resolver.
        raise BadTarget("An IPv4 address must be written as four decimal numbers without leading zeros.") from None
