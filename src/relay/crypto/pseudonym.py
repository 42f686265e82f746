"""Pseudonyms: names that are equal where the originals are, and say nothing about them without the key."""

import hmac
import os
from typing import Final

KEY_BYTES: Final = 32


def new_pseudonym_key() -> bytes:
    """Return 32 random bytes. Once a key is destroyed its pseudonyms name nobody any more."""
    return os.urandom(KEY_BYTES)


def pseudonym(key: bytes, kind: str, name: str) -> str:
    """Return hex HMAC-SHA256 (RFC 2104) of ``name`` as one of a ``kind``; ValueError for a key that is too short.

    The same name under another kind or key has another pseudonym.
    """
    if len(key) < KEY_BYTES:
        raise ValueError(f"a pseudonym needs a key of at least {KEY_BYTES} bytes")
    label = kind.encode()
    return hmac.digest(key, len(label).to_bytes(4, "big") + label + name.encode(), "sha256").hex()
