"""Whom a rule counts, as a digest: of fixed length, so that no caller chooses the size or the parts of a key."""

import ipaddress
from functools import lru_cache
from typing import Final

from relay.crypto.digest import sha256_hex

ADDRESS_PREFIX: Final = 64
NETWORK_PREFIX: Final = 48
_DIGITS: Final = 32
_UNKNOWN: Final = "(unknown)"


@lru_cache(maxsize=4096)
def address_subjects(client: str) -> tuple[bytes, bytes | None]:
    """Return the subjects of a client's address and of its network.

    An IPv4 address, mapped ones too, stands for itself and has no network; an IPv6 address counts as its /64, and its
    /48 is its network. Whatever is no address is one and the same unknown caller.
    """
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return subject("address", _UNKNOWN), None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            number = int(address)
            return subject("address", _block(number, ADDRESS_PREFIX)), subject(
                "network", _block(number, NETWORK_PREFIX)
            )
        address = address.ipv4_mapped
    return subject("address", str(address)), None


@lru_cache(maxsize=4096)
def subject(kind: str, name: str) -> bytes:
    """Return the subject of one of our own ids, or of an address."""
    return sha256_hex(f"{kind}\0{name}".encode())[:_DIGITS].encode()


def _block(number: int, prefix: int) -> str:
    return f"{number >> (128 - prefix):x}/{prefix}"
