"""API keys: ``relay_sk_<env>_`` + 43 base62 characters (32 random bytes) + 6 base62 characters of CRC-32.

The prefix lets scanners find a leaked key, the checksum rejects a typo before any look-up; neither is security.
A key has 256 random bits, so a fast keyed hash is enough to store it (OWASP ASVS 6.5.2).
"""

import hmac
import os
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, cast

KeyEnv = Literal["live", "test", "local"]

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_SECRET_BYTES: Final = 32
_SECRET_WIDTH: Final = 43  # 62**43 > 2**256 > 62**42
_CHECKSUM_WIDTH: Final = 6  # 62**6 > 2**32 > 62**5
_PEPPER_BYTES: Final = 32

API_KEY_PATTERN: Final = re.compile(r"relay_sk_(?:live|test|local)_[0-9A-Za-z]{16,}")
"""Finds keys in other text, cut and mistyped ones included, so that redaction errs on the side of hiding.

A scanner that must not cry wolf passes each match to :func:`parse_api_key`.
"""

_KEY: Final = re.compile(r"relay_sk_(live|test|local)_[0-9A-Za-z]{49}")


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What may be kept and shown of a key: its environment, ``relay_sk_<env>_`` and its last four characters."""

    env: KeyEnv
    prefix: str
    last4: str


def new_api_key(env: KeyEnv) -> str:
    """Return a fresh key. It is the caller's to show once and to forget."""
    if env not in ("live", "test", "local"):
        raise ValueError("the environment of a key is live, test or local")
    body = f"relay_sk_{env}_{_base62(int.from_bytes(os.urandom(_SECRET_BYTES), 'big'), _SECRET_WIDTH)}"
    return body + _checksum(body)


def parse_api_key(text: str) -> ParsedKey | None:
    """Return the parts of a well-formed key, None for any other text whatsoever; it never raises.

    Well-formed means: known environment, exact length, base62 throughout, checksum right. It says nothing about
    whether such a key was ever issued.
    """
    match = _KEY.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM_WIDTH]) != text[-_CHECKSUM_WIDTH:]:
        return None
    env = cast(KeyEnv, match[1])
    return ParsedKey(env=env, prefix=f"relay_sk_{env}_", last4=text[-4:])


def new_pepper() -> bytes:
    """Return 32 random bytes. The pepper is kept apart from the hashes (in an envelope), under an id of its own."""
    return os.urandom(_PEPPER_BYTES)


def hash_api_key(key: str, pepper: bytes) -> str:
    """Return hex HMAC-SHA256(pepper, key): what is stored and looked up by unique index.

    ValueError for a pepper under 32 bytes. Total over ``key``.
    """
    mac = _keyed(pepper).copy()
    mac.update(key.encode("utf-8", "surrogatepass"))
    return mac.hexdigest()


@lru_cache(maxsize=8)
def _keyed(pepper: bytes) -> hmac.HMAC:
    # Setting up the key costs more than hashing with it; peppers are few and live as long as the process.
    if len(pepper) < _PEPPER_BYTES:
        raise ValueError(f"a pepper has at least {_PEPPER_BYTES} bytes")
    return hmac.new(pepper, digestmod="sha256")


def _checksum(body: str) -> str:
    rest, low = divmod(zlib.crc32(body.encode("ascii")), 3844)
    high, middle = divmod(rest, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
