"""Envelopes: what Relay stores secret, sealed so that it can be opened in its own place only.

    0x01 ‖ key id (4) ‖ nonce (12) ‖ data key, sealed (32 + 16) ‖ nonce (12) ‖ plaintext, sealed (n + 16)

Each record has a data key of its own; the key-encryption key seals the data key, both with AES-256-GCM
(NIST SP 800-38D) under fresh random nonces. Workspace, purpose and record id are associated data of both seals, so
that a row copied over another one does not open. Rotation re-seals the data key and leaves the rest alone.

Random nonces bound one key-encryption key to 2^32 envelopes (SP 800-38D, 8.3); rotate it before.
"""

import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.crypto.digest import sha256_hex
from relay.crypto.fernet import FernetError, FernetKey, is_fernet, open_fernet
from relay.crypto.keys import derive

_VERSION: Final = b"\x01"
_KEY_BYTES: Final = 32
_NONCE: Final = 12
_TAG: Final = 16
_ID_END: Final = 5
_NONCE_END: Final = _ID_END + _NONCE
_HEAD_END: Final = _NONCE_END + _KEY_BYTES + _TAG
_DATA_START: Final = _HEAD_END + _NONCE

FERNET: Final = "fernet"
"""What stands for a key's id where a Fernet token is kept: a token does not name its key."""


class EnvelopeError(Exception):
    """The envelope does not open: unknown key, changed bytes, or a place that is not its own."""


def kek_id(key: bytes) -> str:
    """Return the id of a key-encryption key: 8 hex digits of SHA-256 over a labelled derivation of it."""
    return sha256_hex(derive(key, "envelope/key-id"))[:8]


@dataclass(frozen=True, slots=True)
class _Ring:
    """The keys at one moment. It is replaced as a whole, so that whoever reads it once sees one state."""

    wraps: Mapping[bytes, AESGCM]
    fernets: Mapping[bytes, FernetKey]
    current: bytes

    @property
    def wrap(self) -> AESGCM:
        return self.wraps[self.current]


class Envelopes:
    """Seals with the current key-encryption key, opens with every one it knows.

    ``keks`` maps :func:`kek_id` to the 32 bytes of the key; ``current`` is one of these ids. ValueError for a wrong
    id, a wrong length or an unknown ``current``. The keys given are not used themselves: the wrapping keys are
    derived from them, since an installation may hold older values sealed (Fernet) with the same bytes. Such values
    open for the purposes in ``fernet`` and no other: a Fernet token is not bound to its place.

    Keys may be added, promoted and dropped while others seal and open, from whatever thread.
    """

    def __init__(self, keks: Mapping[str, bytes], current: str, *, fernet: Collection[str] = ()) -> None:
        for name, key in keks.items():
            if len(key) != _KEY_BYTES or kek_id(key) != name:
                raise ValueError("a key-encryption key has 32 bytes and goes by its own id")
        if current not in keks:
            raise ValueError("the current key-encryption key is not among those given")
        wraps = {bytes.fromhex(name): _wrap(key) for name, key in keks.items()}
        fernets = {bytes.fromhex(name): FernetKey(key) for name, key in keks.items()}
        self._ring = _Ring(wraps, fernets, bytes.fromhex(current))
        self._fernet_purposes: Final = frozenset(fernet)
        self._changing = threading.Lock()

    @classmethod
    def of(cls, current: bytes, *older: bytes, fernet: Collection[str] = ()) -> "Envelopes":
        """Return envelopes sealed with ``current``; those sealed with ``older`` keys open too."""
        return cls({kek_id(key): key for key in (current, *older)}, kek_id(current), fernet=fernet)

    @property
    def current(self) -> str:
        """The id of the key that seals now."""
        return self._ring.current.hex()

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the keys that open."""
        return frozenset(name.hex() for name in self._ring.wraps)

    def add(self, key: bytes) -> str:
        """Open with ``key`` as well from now on, and return its id. ValueError unless it has 32 bytes."""
        if len(key) != _KEY_BYTES:
            raise ValueError("a key-encryption key has 32 bytes")
        name = bytes.fromhex(kek_id(key))
        with self._changing:
            ring = self._ring
            if name not in ring.wraps:
                self._ring = _Ring(
                    {**ring.wraps, name: _wrap(key)}, {**ring.fernets, name: FernetKey(key)}, ring.current
                )
        return name.hex()

    def promote(self, name: str) -> None:
        """Seal with this key from now on; ValueError when it is not here."""
        with self._changing:
            if name not in self.ids:
                raise ValueError("a key that is not here cannot seal")
            self._ring = replace(self._ring, current=bytes.fromhex(name))

    def drop(self, name: str) -> None:
        """Forget a key; ValueError for the current one."""
        with self._changing:
            ring, gone = self._ring, bytes.fromhex(name)
            if gone == ring.current:
                raise ValueError("the key that seals cannot be dropped")
            self._ring = _Ring(
                {other: wrap for other, wrap in ring.wraps.items() if other != gone},
                {other: key for other, key in ring.fernets.items() if other != gone},
                ring.current,
            )

    def seal(self, plaintext: bytes, *, workspace: str, purpose: str, record: str) -> bytes:
        """Return the envelope of ``plaintext`` for one place: 93 bytes longer, different at each call."""
        place = _place(workspace, purpose, record)
        fresh = os.urandom(_KEY_BYTES + 2 * _NONCE)
        data_key, nonce = fresh[:_KEY_BYTES], fresh[_KEY_BYTES + _NONCE :]
        head = _seal_key(self._ring, data_key, fresh[_KEY_BYTES : _KEY_BYTES + _NONCE], place)
        return head + nonce + AESGCM(data_key).encrypt(nonce, plaintext, b"data" + place)

    def open(self, blob: bytes, *, workspace: str, purpose: str, record: str) -> bytes:
        """Return the plaintext; :class:`EnvelopeError` unless ``blob`` was sealed for this very place, unchanged.

        For a purpose that may hold Fernet tokens, one that any of the keys made opens as well.
        """
        if (token := self._fernet(blob, purpose)) is not None:
            return token
        place = _place(workspace, purpose, record)
        data_key = _open_key(self._ring, blob, place)
        nonce, sealed = blob[_HEAD_END:_DATA_START], blob[_DATA_START:]
        return _opened(AESGCM(data_key), nonce, sealed, b"data" + place)

    def rewrap(self, blob: bytes, *, workspace: str, purpose: str, record: str) -> bytes:
        """Return the envelope with its data key sealed by the current key; the sealed plaintext is not touched.

        :class:`EnvelopeError` as for :meth:`open`, except that the plaintext itself is not checked. A Fernet token is
        opened and sealed anew, bound to its place from then on.
        """
        if (token := self._fernet(blob, purpose)) is not None:
            return self.seal(token, workspace=workspace, purpose=purpose, record=record)
        place, ring = _place(workspace, purpose, record), self._ring
        data_key = _open_key(ring, blob, place)
        return _seal_key(ring, data_key, os.urandom(_NONCE), place) + blob[_HEAD_END:]

    def _fernet(self, blob: bytes, purpose: str) -> bytes | None:
        if purpose not in self._fernet_purposes or not is_fernet(blob):
            return None
        try:
            return open_fernet(blob, tuple(self._ring.fernets.values()))
        except FernetError:
            pass
        raise EnvelopeError("the Fernet token was changed, or made with a key that is not here")


def _wrap(key: bytes) -> AESGCM:
    return AESGCM(derive(key, "envelope/wrap"))


def _seal_key(ring: _Ring, data_key: bytes, nonce: bytes, place: bytes) -> bytes:
    return _VERSION + ring.current + nonce + ring.wrap.encrypt(nonce, data_key, b"key" + place)


def _open_key(ring: _Ring, blob: bytes, place: bytes) -> bytes:
    if len(blob) < _DATA_START + _TAG or blob[:1] != _VERSION:
        raise EnvelopeError("this is not an envelope")
    key = ring.wraps.get(blob[1:_ID_END])
    if key is None:
        raise EnvelopeError(f"the envelope was sealed with key {blob[1:_ID_END].hex()}, which is not here")
    return _opened(key, blob[_ID_END:_NONCE_END], blob[_NONCE_END:_HEAD_END], b"key" + place)


def sealed_with(blob: bytes) -> str:
    """Return the id of the key-encryption key that ``blob`` names, :data:`FERNET` for a Fernet token.

    :class:`EnvelopeError` when it is neither.
    """
    if is_fernet(blob):
        return FERNET
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
