"""What stands for a credential in a report that others read."""

import functools
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

_SALT: Final = b"relay/fingerprint/v1"


@functools.lru_cache(maxsize=4096)
def fingerprint(secret: str) -> str:
    """Return 16 hex digits, the same for the same text everywhere.

    scrypt (RFC 7914) with 16 MiB a guess: some of what is found was chosen by a person, and a plain hash of it in a
    build's log would soon be guessed.
    """
    text = secret.encode("utf-8", errors="surrogatepass")
    return Scrypt(salt=_SALT, length=8, n=2**14, r=8, p=1).derive(text).hex()
