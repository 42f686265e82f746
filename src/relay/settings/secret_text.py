"""Secrets as text: how they are written, made, and told from placeholders."""

import base64
import binascii
import math
import os
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

SECRET_KEY_MIN: Final = 32
WEBHOOK_PREFIX: Final = "whsec_"
TEXT_SECRET_MIN: Final = 32
TEXT_SECRET_MAX: Final = 256
_WEBHOOK_KEY_BYTES: Final = range(24, 65)
_MIN_BITS: Final = 70
_PLACEHOLDERS: Final = ("YOUR_", "YOUR-", "your_", "your-", "...", "\u2026", "placeholder", "PLACEHOLDER")
_PLACEHOLDER_WORDS: Final = ("changeme", "change-me", "change_me", "replaceme", "replace-me", "replace_me")
_EXAMPLE_WORDS: Final = ("example", "insecure", "password", "notasecret", "not-a-secret", "not_a_secret")
# The examples of Standard Webhooks, of Svix, and of the specification of Fernet: everybody who has read them has them.
_PUBLISHED: Final = ("MfKQ9r8GKYqrTwjUPD8I", "C2FVsBQIhrscChlQIMV", "cw_0x689RpI")


@dataclass(frozen=True, slots=True)
class Made:
    """In the annotation of a setting: an installation can make this secret by itself, and ``make`` does.

    ``on_request``: only where it is asked for by name, since it lets somebody act who cannot act without it.
    """

    make: Callable[[], str]
    on_request: bool = False


class PartlySecret:
    """In the annotation of a setting: only a part of its text is secret, so that the whole need not look random."""


class MadeElsewhere:
    """In the annotation of a setting: a service chose this secret for its own door, and need not have made it random.

    Services of one's own that ask for a key and do not look at it are commonly given a word.
    """


def generate_secret_key() -> str:
    """Return a new ``SECRET_KEY``: 43 characters of url-safe base64 for 32 random bytes."""
    return secrets.token_urlsafe(32)


def generate_kek() -> str:
    """Return a new ``OAUTH_ENCRYPTION_KEY``: a Fernet key, padded url-safe base64 of 32 random bytes."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def decode_secret_key(text: str) -> bytes:
    """Return the root that ``SECRET_KEY`` stands for: the UTF-8 bytes of the text as it is written.

    ValueError, which never shows the text, when it is a placeholder, too short or too regular to be random.
    """
    _refuse_weak(text)
    if len(text) < SECRET_KEY_MIN:
        raise ValueError(f"must have at least {SECRET_KEY_MIN} characters; `openssl rand -hex 32` makes one")
    return text.encode()


def decode_kek(text: str) -> bytes:
    """Return the 32 bytes of a Fernet key (44 characters of url-safe base64).

    ValueError, which never shows the text, for any other text, a second spelling of the same bytes included.
    """
    _refuse_weak(text)
    try:
        key = base64.urlsafe_b64decode(text.encode("ascii"))
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if len(key) != 32 or base64.urlsafe_b64encode(key).decode() != text:
        raise ValueError(
            "must be a Fernet key, 44 characters of url-safe base64 for 32 bytes; "
            "`openssl rand -base64 32 | tr +/ -_` makes one"
        )
    # A password written in base64 is still a password.
    _refuse_weak(key.decode("latin-1"))
    return key


def generate_webhook_secret() -> str:
    """Return a new secret of Standard Webhooks: ``whsec_`` and base64 of 32 random bytes."""
    return WEBHOOK_PREFIX + base64.b64encode(os.urandom(32)).decode()


def decode_webhook_secret(text: str) -> bytes:
    """Return the 24 to 64 bytes of a Standard Webhooks secret, ``whsec_`` and canonical base64.

    ValueError, which never shows the text, for any other text, and for a key that is too regular to be random.
    """
    encoded = text.removeprefix(WEBHOOK_PREFIX)
    try:
        key = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if encoded == text or len(key) not in _WEBHOOK_KEY_BYTES or base64.b64encode(key).decode() != encoded:
        raise ValueError("must be whsec_ and padded base64 of 24 to 64 random bytes")
    _refuse_weak(key.decode("latin-1"))
    return key


def generate_token() -> str:
    """Return a new bearer token: 43 characters of url-safe base64 for 32 random bytes."""
    return secrets.token_urlsafe(32)


def decode_text_secret(text: str) -> bytes:
    """Return the key of a webhook scheme whose key is text: its UTF-8 bytes as it is written, ``whsec_`` included.

    ValueError, which never shows the text, under 32 or over 256 characters, with white space around it or control
    characters in it, and for a placeholder or a text too regular to be random.
    """
    if not TEXT_SECRET_MIN <= len(text) <= TEXT_SECRET_MAX:
        raise ValueError(f"must have {TEXT_SECRET_MIN} to {TEXT_SECRET_MAX} characters")
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable, without white space around it")
    _refuse_weak(text)
    return text.encode()


def is_placeholder(text: str) -> bool:
    """Tell whether ``text`` is what examples say where a secret belongs, rather than a secret."""
    lowered = text.lower()
    return any(mark in text for mark in _PLACEHOLDERS) or any(word in lowered for word in _PLACEHOLDER_WORDS)


def is_example(text: str) -> bool:
    """Tell whether ``text`` is a secret that somebody published, or says of itself that it is one for show.

    Not for addresses: ``example.com`` is a fine host.
    """
    lowered = text.lower()
    return any(mark in text for mark in _PUBLISHED) or any(word in lowered for word in _EXAMPLE_WORDS)


def is_regular(text: str) -> bool:
    """Tell whether ``text`` is too regular to be random: few characters, a repeated unit, runs like ``abcd``.

    An estimate on the safe side: 32 random hex digits pass but for odds under one in 10^9, words repeated do not.
    """
    if len(text) < 2 or (text + text).find(text, 1) < len(text):
        return True
    runs = sum(abs(ord(b) - ord(a)) <= 1 for a, b in pairwise(text))
    return 4 * runs > 3 * len(text) or _estimated_bits(text) < _MIN_BITS


def _estimated_bits(text: str) -> float:
    counts = Counter(text).values()
    return -sum(count * math.log2(count / len(text)) for count in counts)


def _refuse_weak(text: str) -> None:
    if is_placeholder(text) or is_example(text):
        raise ValueError("is a placeholder; give a real one")
    if is_regular(text):
        raise ValueError("is too short or too regular to be a secret; give a random one")
