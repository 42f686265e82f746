"""Which request headers a caller may set: any but those that frame a message or belong to one connection."""

import re
from collections.abc import Mapping
from typing import Final

MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16 * 1024

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE: Final = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")
# RFC 9110 section 7.6.1 and RFC 9112 section 6: with one of these a caller could smuggle a second request or
# speak to an intermediary. Accept-Encoding is Relay's own, since it does not decompress answers.
_RESERVED: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError, naming a header but never its value, unless all may be sent as they are.

    Names are tokens (RFC 9110 section 5.6.2), no two alike but for case. Values are printable ASCII without
    leading or trailing blanks. Framing, hop-by-hop and ``Proxy-…`` headers are refused.
    """
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADER_BYTES:
        raise ValueError(f"at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all")
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header's name is not a token")
        if lower in _RESERVED or lower.startswith("proxy-"):
            raise ValueError(f"the header {lower} is set by Relay alone")
        if lower in seen:
            raise ValueError(f"the header {lower} is given twice")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the header {lower} is not printable ASCII")
        seen.add(lower)
