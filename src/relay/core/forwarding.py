"""Headers by which proxies give themselves away, whether they are trusted or not."""

from collections.abc import Iterable
from typing import Final

_PREFIXES: Final = (b"forwarded", b"x-forwarded", b"x-original-")
_NAMES: Final = frozenset(
    name.encode()
    for name in (
        "via x-real-ip x-client-ip x-cluster-client-ip x-envoy-external-address x-proxyuser-ip x-remote-addr "
        "client-ip true-client-ip cf-connecting-ip cf-connecting-ipv6 fastly-client-ip fly-client-ip x-azure-clientip "
        "proxy-connection"
    ).split()
)


def is_forwarded(header_names: Iterable[bytes]) -> bool:
    """Say whether one of these headers, in lower case, shows that the request did not come directly."""
    return any(name in _NAMES or name.startswith(_PREFIXES) for name in header_names)
