"""What a report of leaked keys says: its forms, its bounds, and whether GitHub signed it. Pure, total over bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import from_json

from relay.core.facts import RequestFacts
from relay.crypto.ecdsa import PublicKey

MAX_TOKENS: Final = 100
"""How many different tokens of one report are looked at."""
MAX_SOURCE: Final = 500
_MAX_TOKEN: Final = 200
_IDENTIFIER: Final = b"github-public-key-identifier"
_SIGNATURE: Final = b"github-public-key-signature"


@dataclass(frozen=True, slots=True)
class Leaked:
    """A text that somebody found where it must not be. ``where`` says more, in the words of whoever reports it."""

    token: str = field(repr=False)
    where: Mapping[str, str] = field(default_factory=dict)


class Signers:
    """The public keys that GitHub signs its reports with, by their identifiers."""

    def __init__(self, keys: Mapping[str, PublicKey]) -> None:
        self._keys = keys

    @classmethod
    def from_json(cls, text: str | bytes) -> "Signers":
        """Read what ``https://api.github.com/meta/public_keys/secret_scanning`` answers.

        ValueError, which never quotes, unless that is an object with ``public_keys``, one at least, each with
        ``key_identifier`` and ``key``: a public key in PEM on the curve P-256.
        """
        found = from_json(text)
        listed = found.get("public_keys") if isinstance(found, dict) else None
        if not isinstance(listed, list) or not listed:
            raise ValueError('must hold "public_keys", a list with one entry at least')
        return cls(dict(map(_signer, listed)))

    def signed(self, facts: RequestFacts, body: bytes) -> bool:
        """Say whether the key that the headers name is one of these and signed the body; a repeated header is none."""
        identifier, signature = facts.header(_IDENTIFIER), facts.header(_SIGNATURE)
        if identifier is None or signature is None:
            return False
        key = self._keys.get(identifier.decode("latin-1"))
        return key is not None and key.verifies(signature.decode("latin-1"), body)


def _signer(entry: Any) -> tuple[str, PublicKey]:
    identifier, key = (entry.get("key_identifier"), entry.get("key")) if isinstance(entry, dict) else (None, None)
    if not isinstance(identifier, str) or not isinstance(key, str) or not identifier:
        raise ValueError('must give each public key as "key_identifier" and "key"')
    return identifier, PublicKey(key)


def read_report(body: bytes, *, signed: bool) -> list[Leaked]:
    """Return what is reported: ``{"token"}``, or an array of ``{"token", "type", "url", "source"}``.

    No body is wrong: what is not understood reports nothing. At most :data:`MAX_TOKENS` different tokens are returned.
    Where a token was found is taken from a ``signed`` report alone: anybody else could write anything there.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return []
    entries = value if isinstance(value, list) else [value]
    found: dict[str, Leaked] = {}
    for entry in entries:
        leaked = _leaked(entry, signed)
        if leaked is not None:
            found.setdefault(leaked.token, leaked)
        if len(found) == MAX_TOKENS:
            break
    return list(found.values())


def _leaked(entry: Any, signed: bool) -> Leaked | None:
    token = entry.get("token") if isinstance(entry, dict) else None
    if not isinstance(token, str) or not 0 < len(token.strip()) <= _MAX_TOKEN:
        return None
    return Leaked(token.strip(), dict(_where(entry, ("type", "url", "source"))) if signed else {})


def _where(entry: Mapping[str, Any], names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        text = entry.get(name)
        if isinstance(text, str) and text:
            yield name, "".join(letter if letter.isprintable() else " " for letter in text[:MAX_SOURCE])
