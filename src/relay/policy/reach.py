"""What is internal: mail domains and hosts that belong to whoever runs this installation."""

from collections.abc import Iterable

from relay.core.domains import domain_of
from relay.egress.addresses import Address, numeric
from relay.egress.policy import AllowEntry, parse_allow_entry


class Reach:
    """Tells internal recipients and hosts from external ones.

    ``internal_domains`` are names, each for itself alone, and ``*.name`` for everything below a name. ``egress_allow``
    are entries of EGRESS_ALLOW: a host that one of them opens is internal as well. Without either all is external.
    """

    def __init__(self, internal_domains: Iterable[str] = (), egress_allow: Iterable[str] = ()) -> None:
        given = tuple(internal_domains)
        self._names = frozenset(name for name in given if not name.startswith("*."))
        self._suffixes = tuple(name[1:] for name in given if name.startswith("*."))
        self._opened = tuple(map(parse_allow_entry, egress_allow))

    def external_recipients(self, recipients: Iterable[str]) -> list[str]:
        """Return the recipients, as actions expose them, whose domain is not internal."""
        return [address for address in recipients if not self._is_internal(domain_of(address))]

    def external_hosts(self, hosts: Iterable[str], port: int | None) -> list[str]:
        """Return the hosts that are not internal.

        An entry of EGRESS_ALLOW with a port opens that port alone, so it counts only where the port is known.
        """
        return [host for host in hosts if not (self._is_internal(host) or self._is_opened(host, port))]

    def _is_internal(self, name: str) -> bool:
        return name in self._names or name.endswith(self._suffixes)

    def _is_opened(self, host: str, port: int | None) -> bool:
        try:
            address: Address | None = numeric(host)
        except ValueError:
            address = None
        return any(_opens(entry, address, host, port) for entry in self._opened)


def _opens(entry: AllowEntry, address: Address | None, host: str, port: int | None) -> bool:
    if entry.port is not None and entry.port != port:
        return False
    if entry.network is None:
        return entry.host == host
    return address is not None and address.version == entry.network.version and address in entry.network
