"""What kind of place a numeric address is: public, special-purpose, or one that is never connected to.

Sources: the IANA special-purpose address registries (RFC 6890 and its updates), RFC 6052 (NAT64), RFC 3056 (6to4),
RFC 4380 (Teredo), RFC 5214 (ISATAP), and the cloud vendors' documents on instance metadata.
"""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Kind = Literal["public", "special", "never"]

_ORDER: Final[dict[Kind, int]] = {"public": 0, "special": 1, "never": 2}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an address is treated and, for people, what it is."""

    kind: Kind
    what: str


def _table(entries: dict[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ipaddress.ip_network(text), what) for text, what in entries.items())


# Credentials of the machine itself are handed out here. Some of these addresses lie in public space.
NEVER: Final = _table(
    {
        "169.254.0.0/16": "link-local, where clouds serve instance metadata",
        "fe80::/10": "link-local",
        "100.100.100.200/32": "instance metadata",
        "168.63.129.16/32": "instance metadata",
        "192.0.0.192/32": "instance metadata",
        "fd00:ec2::/32": "instance metadata",
        "fd20:ce::254/128": "instance metadata",
        "fd00:42::42/128": "instance metadata",
        # The system answers for these itself, so they would reach every local listener under another name.
        "0.0.0.0/8": "unspecified",
        "::/128": "unspecified",
    }
)

SPECIAL: Final = _table(
    {
        "127.0.0.0/8": "loopback",
        "10.0.0.0/8": "private",
        "172.16.0.0/12": "private",
        "192.168.0.0/16": "private",
        "100.64.0.0/10": "carrier-grade NAT",
        "192.0.0.0/24": "reserved for protocols",
        "192.0.2.0/24": "documentation",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "192.88.99.0/24": "6to4 relay",
        "198.18.0.0/15": "benchmark",
        "224.0.0.0/4": "multicast",
        "255.255.255.255/32": "broadcast",
        "240.0.0.0/4": "reserved",
        "::1/128": "loopback",
        "::/96": "IPv4-compatible",
        "::ffff:0:0:0/96": "IPv4-translated",
        "64:ff9b::/96": "NAT64",
        "64:ff9b:1::/48": "NAT64",
        "100::/64": "discard-only",
        "2001::/32": "Teredo",
        "2001:2::/48": "benchmark",
        "2001::/23": "reserved for protocols",
        "2001:db8::/32": "documentation",
        "3fff::/20": "documentation",
        "2002::/16": "6to4",
        "5f00::/16": "segment routing",
        "fc00::/7": "unique local",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
    }
)

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
_LOW_32: Final = tuple(map(IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


def numeric(text: str) -> Address:
    """Return the address that ``text`` spells, IPv4-mapped IPv6 as the IPv4 address it reaches; else ValueError."""
    address = ipaddress.ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def embedded(address: Address) -> tuple[IPv4Address, ...]:
    """Return every IPv4 address that a translator or tunnel might read out of an IPv6 address."""
    if isinstance(address, IPv4Address):
        return ()
    value = int(address)
    found: list[int] = []
    if any(address in network for network in _LOW_32):
        found.append(value & 0xFFFFFFFF)
    if address in _NAT64_LOCAL:
        # RFC 6052 section 2.2: bits 64 to 71 are zero and are skipped. The prefix in use cannot be known from here.
        found += [
            (value >> 64 & 0xFFFF) << 16 | value >> 40 & 0xFFFF,
            (value >> 64 & 0xFF) << 24 | value >> 32 & 0xFFFFFF,
            value >> 24 & 0xFFFFFFFF,
        ]
    if address.sixtofour is not None:
        found.append(int(address.sixtofour))
    if address.teredo is not None:
        found += [int(address.teredo[0]), int(address.teredo[1])]
    if value >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(value & 0xFFFFFFFF)
    # 0.0.0.0/8 is no destination behind a translator (and ::1 is not 0.0.0.1).
    return tuple(IPv4Address(inner) for inner in found if inner >> 24)


@lru_cache(maxsize=4096)
def judge(address: Address) -> Verdict:
    """Return the strictest verdict on an address and on every IPv4 address that is embedded in it."""
    worst = _judge_alone(address)
    for inner in embedded(address):
        verdict = _judge_alone(inner)
        if _ORDER[verdict.kind] > _ORDER[worst.kind]:
            worst = verdict
    return worst


def _judge_alone(address: Address) -> Verdict:
    for network, what in NEVER:
        if address.version == network.version and address in network:
            return Verdict("never", what)
    for network, what in SPECIAL:
        if address.version == network.version and address in network:
            return Verdict("special", what)
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return Verdict("special", "outside global unicast")
    return Verdict("public", "public")
