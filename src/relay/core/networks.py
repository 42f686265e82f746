"""Addresses and networks in one form each, and lists of networks that a credential may be used from."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_NETWORKS: Final = 100
MAX_NETWORK_TEXT: Final = 50
_MAX_ADDRESS_TEXT: Final = 100
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def address_of(text: str) -> Address | None:
    """Return a numeric address, None for any other text.

    An IPv4 address that is mapped into IPv6 (RFC 4291, 2.5.5.2) is the IPv4 address, and a zone (RFC 4007) is left out:
    it names an interface of one machine.
    """
    return _address_of(text) if len(text) <= _MAX_ADDRESS_TEXT else None


@lru_cache(maxsize=4096)
def _address_of(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(text: str) -> Network:
    """Return a network in CIDR form; a bare address stands for itself.

    ValueError, which never quotes, for another text. Bits beyond the prefix are refused rather than dropped: whoever
    wrote them meant another network.
    """
    if not text.isascii() or len(text) > MAX_NETWORK_TEXT or "%" in text:
        raise ValueError("must be an address or a network like 203.0.113.0/24 or 2001:db8::/32")
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(
            "must be an address or a network like 203.0.113.0/24 or 2001:db8::/32, with no bits set beyond its prefix"
        ) from None
    return unmapped(network)


def unmapped(network: Network) -> Network:
    """Return the IPv4 network that an IPv6 one of mapped addresses stands for; any other as it is."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def is_within(inner: Network, outer: Iterable[Network]) -> bool:
    """Say whether one of ``outer`` holds every address of ``inner``."""
    return any(_holds(network, inner) for network in outer)


def _holds(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


@dataclass(frozen=True, slots=True)
class AllowList:
    """From where a credential may be used: each of the lists that is not empty must hold the address.

    So a key's own list narrows what its workspace allows, a child token's what its parent's does, and none widens it.
    """

    workspace: tuple[Network, ...]
    own: tuple[Network, ...]
    parent: tuple[Network, ...] = ()

    def admits(self, address: str) -> bool:
        """Say whether a caller at ``address`` may use the credential; an address that is not known may not."""
        found = address_of(address)
        if found is None:
            return not (self.workspace or self.own or self.parent)
        return all(_open_to(found, networks) for networks in (self.workspace, self.own, self.parent))


def _open_to(address: Address, networks: tuple[Network, ...]) -> bool:
    return not networks or any(address in network for network in networks)


def allow_list(workspace: Iterable[str], own: Iterable[str], parent: Iterable[str] = ()) -> AllowList | None:
    """Return the list that stored ones make; None when none restricts anything."""
    lists = [tuple(network_of(text) for text in texts) for texts in (workspace, own, parent)]
    return AllowList(*lists) if any(lists) else None
