"""Canonical JSON (RFC 8785): one byte string for one value, so that a digest means one thing."""

import json
from typing import Any, Final

import rfc8785

_MAX_INTEGER: Final = 2**53 - 1
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


class NotCanonical(ValueError):
    """The value has no canonical form: a number outside ±(2^53−1), NaN, a lone surrogate, a key that is no text."""


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 serialisation of a JSON value; :class:`NotCanonical` when there is none.

    Values without fractions whose member names are ASCII, nearly all that Relay meets, take a fast way that gives the
    same bytes: the standard encoder escapes as RFC 8785 does, and code points sort ASCII as UTF-16 units do.
    """
    try:
        if _is_plain(value):
            return _encode(value).encode()
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise NotCanonical(type(error).__name__) from None


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-_MAX_INTEGER <= value <= _MAX_INTEGER)
    if kind is dict:
        return all(type(name) is str and name.isascii() and _is_plain(member) for name, member in value.items())
    return kind is list and all(map(_is_plain, value))
