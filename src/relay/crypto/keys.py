"""Keys from keys: one root, one label, one purpose."""

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from relay.crypto.digest import sha256

_SALT: Final = b"relay/derive/v1"
_MIN_ROOT_BYTES: Final = 32


def derive(root: bytes, label: str, length: int = 32) -> bytes:
    """Return ``length`` bytes for one purpose: HKDF-SHA256 (RFC 5869), a fixed salt, ``label`` as info.

    The same root and label give the same bytes for ever; bytes for one label say nothing about those for another
    or about the root. ValueError for a root under 32 bytes, an empty label, or more than 255 * 32 bytes.
    """
    if len(root) < _MIN_ROOT_BYTES:
        raise ValueError(f"a root key has at least {_MIN_ROOT_BYTES} bytes")
    if not label:
        raise ValueError("a derived key needs a label")
    return HKDF(algorithm=SHA256(), length=length, salt=_SALT, info=label.encode()).derive(root)


def check_value(key: bytes) -> str:
    """Return 32 hex digits by which two processes can tell that they hold the same key, without revealing it.

    To be stored beside the data. It is derived under a label of its own, so that it is useless as a key.
    """
    return derive(key, "check-value", 16).hex()


def text_check_value(text: str) -> str:
    """As :func:`check_value` for a secret that is text, and that somebody may have thought up.

    It costs 16 MiB and some ten milliseconds (scrypt, RFC 7914), and so does every guess by whoever reads it.
    """
    stretched = Scrypt(salt=_SALT, length=32, n=2**14, r=8, p=1).derive(text.encode())
    return check_value(sha256(stretched))
