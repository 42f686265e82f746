"""Canonical JSON (RFC 8785): one byte string for one value, so that a digest means one thing."""

from typing import Any

import rfc8785


class NotCanonical(ValueError):
    """The value has no canonical form: a number outside ±(2^53−1), NaN, a lone surrogate, a key that is no text."""


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 serialisation of a JSON value; :class:`NotCanonical` when there is none."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise NotCanonical(str(error)) from None
