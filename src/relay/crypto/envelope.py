"""Envelopes: what Relay stores secret, sealed so that it can be opened in its own place only.

    0x01 ‖ key id (4) ‖ nonce (12) ‖ data key, sealed (32 + 16) ‖ nonce (12) ‖ plaintext, sealed (n + 16)

Each record has a data key of its own; the key-encryption key seals the data key, both with AES-256-GCM
(NIST SP 800-38D) under fresh random nonces. Workspace, purpose and record id are associated data of both seals, so
that a row copied over another one does not open. Rotation re-seals the data key and leaves the rest alone.

Random nonces bound one key-encryption key to 2^32 envelopes (SP 800-38D, 8.3); rotate it before.
"""

import os
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.crypto.digest import sha256_hex
from relay.crypto.keys import derive

_VERSION: Final = b"\x01"
_KEY_BYTES: Final = 32
_NONCE: Final = 12
_TAG: Final = 16
_ID_END: Final = 5
_NONCE_END: Final = _ID_END + _NONCE
_HEAD_END: Final = _NONCE_END + _KEY_BYTES + _TAG
_DATA_START: Final = _HEAD_END + _NONCE


class EnvelopeError(Exception):
    """The envelope does not open: unknown key, changed bytes, or a place that is not its own."""


def kek_id(key: bytes) -> str:
    """Return the id of a key-encryption key: 8 hex digits of SHA-256 over a labelled derivation of it."""
    return sha256_hex(derive(key, "envelope/key-id"))[:8]


class Envelopes:
    """Seals with the current key-encryption key, opens with every one it knows.

    ``keks`` maps :func:`kek_id` to the 32 bytes of the key; ``current`` is one of these ids. ValueError for a wrong
    id, a wrong length or an unknown ``current``. The keys given are not used themselves: the wrapping keys are
    derived from them, since an installation may hold older values sealed (Fernet) with the same bytes.
    """

    def __init__(self, keks: Mapping[str, bytes], current: str) -> None:
        self._keys: dict[bytes, AESGCM] = {}
        for name, key in keks.items():
            if len(key) != _KEY_BYTES or kek_id(key) != name:
                raise ValueError("a key-encryption key has 32 bytes and goes by its own id")
            self._keys[bytes.fromhex(name)] = AESGCM(derive(key, "envelope/wrap"))
        if current not in keks:
            raise ValueError("the current key-encryption key is not among those given")
        self.current: Final = current
        self._current_id: Final = bytes.fromhex(current)
        self._wrap: Final = self._keys[self._current_id]

    @classmethod
    def of(cls, current: bytes, *older: bytes) -> "Envelopes":
        """Return envelopes sealed with ``current``; those sealed with ``older`` keys open too."""
        return cls({kek_id(key): key for key in (current, *older)}, kek_id(current))

    def seal(self, plaintext: bytes, *, workspace: str, purpose: str, record: str) -> bytes:
        """Return the envelope of ``plaintext`` for one place: 93 bytes longer, different at each call."""
        place = _place(workspace, purpose, record)
        fresh = os.urandom(_KEY_BYTES + 2 * _NONCE)
        data_key, nonce = fresh[:_KEY_BYTES], fresh[_KEY_BYTES + _NONCE :]
        head = self._seal_key(data_key, fresh[_KEY_BYTES : _KEY_BYTES + _NONCE], place)
        return head + nonce + AESGCM(data_key).encrypt(nonce, plaintext, b"data" + place)

    def open(self, blob: bytes, *, workspace: str, purpose: str, record: str) -> bytes:
        """Return the plaintext; :class:`EnvelopeError` unless ``blob`` was sealed for this very place, unchanged."""
        place = _place(workspace, purpose, record)
        data_key = self._open_key(blob, place)
        nonce, sealed = blob[_HEAD_END:_DATA_START], blob[_DATA_START:]
        return _opened(AESGCM(data_key), nonce, sealed, b"data" + place)

    def rewrap(self, blob: bytes, *, workspace: str, purpose: str, record: str) -> bytes:
        """Return the envelope with its data key sealed by the current key; the sealed plaintext is not touched.

        :class:`EnvelopeError` as for :meth:`open`, except that the plaintext itself is not checked.
        """
        place = _place(workspace, purpose, record)
        data_key = self._open_key(blob, place)
        return self._seal_key(data_key, os.urandom(_NONCE), place) + blob[_HEAD_END:]

    def _seal_key(self, data_key: bytes, nonce: bytes, place: bytes) -> bytes:
        return _VERSION + self._current_id + nonce + self._wrap.encrypt(nonce, data_key, b"key" + place)

    def _open_key(self, blob: bytes, place: bytes) -> bytes:
        if len(blob) < _DATA_START + _TAG or blob[:1] != _VERSION:
            raise EnvelopeError("this is not an envelope")
        key = self._keys.get(blob[1:_ID_END])
        if key is None:
            raise EnvelopeError(f"the envelope was sealed with key {blob[1:_ID_END].hex()}, which is not here")
        return _opened(key, blob[_ID_END:_NONCE_END], blob[_NONCE_END:_HEAD_END], b"key" + place)


def sealed_with(blob: bytes) -> str:
    """Return the id of the key-encryption key that ``blob`` names; :class:`EnvelopeError` when it is no envelope."""
    if len(blob) < _DATA_START + _TAG or blob[:1] != _VERSION:
        raise EnvelopeError("this is not an envelope")
    return blob[1:_ID_END].hex()


def _place(workspace: str, purpose: str, record: str) -> bytes:
    # Lengths in front make the encoding unambiguous: ("a", "bc") and ("ab", "c") must not be the same place.
    return _sized(workspace) + _sized(purpose) + _sized(record)


def _sized(text: str) -> bytes:
    part = text.encode()
    return len(part).to_bytes(4, "big") + part


def _opened(key: AESGCM, nonce: bytes, sealed: bytes, place: bytes) -> bytes:
    try:
        return key.decrypt(nonce, sealed, place)
    except InvalidTag:
        pass
    raise EnvelopeError("the envelope was changed, or belongs elsewhere")
