"""Which credential a request presents, read from its raw headers."""

import re
from typing import Final

from relay.core.facts import RawHeaders
from relay.core.problem import Unauthenticated
from relay.crypto.digest import equal

MAX_HEADER_BYTES: Final = 1024
INVALID_KEY: Final = "This API key is not valid: unknown, expired or revoked."
"""What whoever presents a key that opens nothing is told, whatever the reason."""

# Wider than RFC 6750's b64token, since operators choose some tokens themselves. No comma: a proxy that folds repeated
# lines joins them with one (RFC 9110, 5.3), and which of the two was meant is not for Relay to guess.
_TOKEN: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_AUTHORIZATION: Final = b"authorization"
_API_KEY: Final = b"x-api-key"


def credential_from(headers: RawHeaders) -> str | None:
    """Return the credential of ``Authorization: Bearer …`` or ``X-API-Key: …``, None when neither header is there.

    The scheme is matched without regard to case (RFC 9110, 11.1). Refused with
    :class:`~relay.core.problem.Unauthenticated`: either header repeated, another scheme, a value that is empty, longer
    than :data:`MAX_HEADER_BYTES` or not one run of visible ASCII, and two headers that disagree. It raises nothing
    else, whatever the bytes, and never quotes them.
    """
    authorization = api_key = None
    for name, value in headers:
        size = len(name)
        if size == 13 and name.lower() == _AUTHORIZATION:
            if authorization is not None:
                raise Unauthenticated("Send one Authorization header.")
            authorization = value
        elif size == 9 and name.lower() == _API_KEY:
            if api_key is not None:
                raise Unauthenticated("Send one X-API-Key header.")
            api_key = value
    if authorization is None:
        return None if api_key is None else _token(api_key, "X-API-Key").decode("ascii")
    bearer = _bearer(authorization)
    if api_key is not None and not equal(bearer, _token(api_key, "X-API-Key")):
        raise Unauthenticated("Authorization and X-API-Key hold different keys; send one.")
    return bearer.decode("ascii")


def _bearer(value: bytes) -> bytes:
    _require_short(value, "Authorization")
    scheme, _, rest = value.strip(b" \t").partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated("The Authorization header must read: Bearer, a space, the key.")
    return _token(rest, "Authorization")


def _token(value: bytes, header: str) -> bytes:
    _require_short(value, header)
    token = value.strip(b" \t")
    if _TOKEN.fullmatch(token) is None:
        raise Unauthenticated(f"The {header} header does not hold one well-formed key.")
    return token


def _require_short(value: bytes, header: str) -> None:
    if len(value) > MAX_HEADER_BYTES:
        raise Unauthenticated(f"The {header} header is too long for a key.")
