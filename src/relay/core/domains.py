"""Domain names and mail addresses in one form each, so that a rule about one cannot be dodged by its spelling."""

import unicodedata
from typing import Final

_PREFIX: Final = "xn--"


def ascii_domain(text: str) -> str:
    """Return a domain in lower case, each label in ASCII (RFC 3492 behind ``xn--``), without judging whether it exists.

    Nothing is mapped beyond case and NFKC: what IDNA 2003 makes of ``ß`` is another domain than the one that IDNA 2008
    delivers to, and taking the one for the other would call a stranger internal.
    """
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKC", text.lower())
    return ".".join(label if label.isascii() else _PREFIX + _punycode(label) for label in plain.split("."))


def _punycode(label: str) -> str:
    return label.encode("punycode").decode("ascii")


def comparable_address(address: str) -> str:
    """Return a mail address as rules compare it: in lower case, its domain in ASCII.

    A server may tell local parts apart by case (RFC 5321, 2.4); hardly any does, and a rule about ``boss@`` has to hold
    for ``Boss@``.
    """
    local, _, domain = address.rpartition("@")
    return f"{local.lower()}@{ascii_domain(domain)}"


def domain_of(address: str) -> str:
    """Return what stands behind the last @ of an address that :func:`comparable_address` returned."""
    return address.rpartition("@")[2]
