"""Ids of sessions: 256 random bits that only their owner holds, and the hash by which everybody else knows them."""

import re
import secrets
from typing import Final

from relay.crypto.digest import sha256_hex

_BYTES: Final = 32
_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def new_session_id() -> str:
    """Return 256 bits of the operating system's, base64url without padding: 43 characters."""
    return secrets.token_urlsafe(_BYTES)


def hash_of(session_id: str) -> str | None:
    """Return SHA-256 of a session's id in hex, None for what no session can be called.

    What is looked up is the hash: how far a guess is right cannot be told from how long that takes.
    """
    return sha256_hex(session_id.encode()) if _ID.fullmatch(session_id) else None
