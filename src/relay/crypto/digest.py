"""SHA-256, constant-time comparison, and commitments that can be erased."""

import hashlib
import hmac
import os
from typing import Final

SALT_BYTES: Final = 16


def sha256(data: bytes) -> bytes:
    """Return the 32 bytes of SHA-256 (FIPS 180-4)."""
    return hashlib.sha256(data).digest()


def sha256_hex(data: bytes) -> str:
    """Return SHA-256 as 64 lower-case hex digits, the form that digests have on the wire."""
    return hashlib.sha256(data).hexdigest()


def equal(a: bytes, b: bytes) -> bool:
    """Compare in time that depends on the lengths only.

    Bytes only: the underlying comparison raises on a ``str`` outside ASCII, which would turn a forgery into a 500.
    """
    return hmac.compare_digest(a, b)


def new_salt() -> bytes:
    """Return 16 random bytes; one salt for one commitment, never used again."""
    return os.urandom(SALT_BYTES)


def commitment(salt: bytes, data: bytes) -> str:
    """Return hex HMAC-SHA256(salt, data), RFC 2104.

    Once the salt is destroyed the commitment says nothing about ``data``, short or guessable as it may be;
    while the salt is there it binds to ``data``. ValueError for a salt that is too short to hide anything.
    """
    if len(salt) < SALT_BYTES:
        raise ValueError(f"a commitment needs a salt of at least {SALT_BYTES} bytes")
    return hmac.digest(salt, data, "sha256").hex()
