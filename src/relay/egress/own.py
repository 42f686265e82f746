"""Relay's own endpoints, which no caller may reach through Relay."""

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from relay.egress.addresses import Address, numeric

_ANY: Final = "0.0.0.0"  # noqa: S104 - compared with, never bound to
_DEFAULT_PORTS: Final = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379, "unix": 6379}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (name or address) and port. An unspecified address means every address of this machine."""

    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """The numeric address, or None when the host is a name."""
        try:
            return numeric(self.host)
        except ValueError:
            return None


def own_endpoints(
    *, listen: tuple[str, int], database_url: str | None = None, redis_url: str | None = None
) -> tuple[Endpoint, ...]:
    """Return the endpoints that egress keeps closed: the listener, and the database and Redis where they have one.

    A database that is reached through a Unix socket is assumed to listen on its port of this machine as well. An
    SQLite database has no endpoint. ValueError, which repeats nothing of the URL, for a malformed one.
    """
    host, port = listen
    found = [_endpoint(host or _ANY, port)]
    for name, url in (("DATABASE_URL", database_url), ("REDIS_URL", redis_url)):
        if url:
            try:
                found += _endpoints_of(url)
            except ValueError:
                raise ValueError(f"{name} holds a host or port that cannot be read") from None
    return tuple(dict.fromkeys(found))


def _endpoints_of(url: str) -> list[Endpoint]:
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0].lower()
    if scheme not in _DEFAULT_PORTS:
        return []
    query = parse_qs(parts.query)
    ports = [int(text) for value in query.get("port", []) for text in value.split(",") if text]
    # libpq accepts several hosts, in the authority and as parameters; hostaddr is what it then connects to.
    hosts = [parts.netloc.rpartition("@")[2]] if scheme != "unix" else [""]
    hosts += query.get("host", []) + query.get("hostaddr", [])
    found: list[Endpoint] = []
    for host in (unquote(host) for value in hosts for host in value.split(",")):
        found += [_one(host, port) for port in (ports or [_DEFAULT_PORTS[scheme]])]
    return found


def _one(text: str, default: int) -> Endpoint:
    if not text or text.startswith("/"):
        return _endpoint(_ANY, default)
    try:
        return _endpoint(str(ipaddress.ip_address(text)), default)
    except ValueError:
        parts = urlsplit(f"//{text}")
        if not parts.hostname:
            raise ValueError("no host") from None
        return _endpoint(parts.hostname, parts.port or default)


def _endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(host.strip("[]").lower(), port)
