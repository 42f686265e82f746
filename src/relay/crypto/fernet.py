"""Fernet tokens: what ``OAUTH_ENCRYPTION_KEY`` sealed before there were envelopes. Read, never made.

https://github.com/fernet/spec. A token is bound to no place and does not name its key, so every key is tried.
"""

import base64
import re
from collections.abc import Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

# Version 0x80, then seven bytes of time that stay zero for thousands of years, in url-safe base64.
_START: Final = b"gAAAAA"
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{96,}={0,2}")


class FernetError(Exception):
    """The token was changed, or none of the keys made it."""


class FernetKey:
    """A Fernet key, held in no form that a ``repr`` shows. ValueError unless it has 32 bytes."""

    __slots__ = ("_fernet",)

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(key))


def is_fernet(blob: bytes) -> bool:
    """Say whether ``blob`` has the form of a Fernet token; an envelope never has."""
    return blob.startswith(_START) and _TOKEN.fullmatch(blob) is not None


def open_fernet(token: bytes, keys: Sequence[FernetKey]) -> bytes:
    """Return what ``token`` holds, whatever its age; :class:`FernetError` when none of ``keys`` made it."""
    if keys:
        try:
            return MultiFernet([key._fernet for key in keys]).decrypt(token)
        except InvalidToken:
            pass
    raise FernetError("none of the keys made this token")
