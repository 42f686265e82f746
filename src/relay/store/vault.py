"""Sealing and keeping in one place: JSON in, an envelope row out, and back."""

from dataclasses import dataclass, field, replace

from sqlalchemy import insert

from relay.crypto.envelope import Envelopes, sealed_with
from relay.store.envelopes import EnvelopeRepository
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import envelopes
from relay.store.writer import Tx

_INSERT = Query(insert(envelopes))


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope that waits to be stored with the change it belongs to."""

    purpose: str
    record_id: str
    workspace_id: str
    kek_id: str
    body: bytes
    expires_at: int | None
    keys: Envelopes = field(repr=False, compare=False)

    def renewed(self) -> "Sealed":
        """Return it under the key that seals now; to be called in the transaction that stores it.

        The key may have changed since it was sealed, and nothing may be stored under one that is about to be retired.
        """
        if self.kek_id == self.keys.current:
            return self
        body = self.keys.rewrap(self.body, workspace=self.workspace_id, purpose=self.purpose, record=self.record_id)
        return replace(self, kek_id=sealed_with(body), body=body)


class Vault:
    """Seals before a transaction, so that a unit that runs twice does not seal twice."""

    def __init__(self, keys: Envelopes, reader: Reader) -> None:
        self._keys = keys
        self._reader = reader

    def seal(self, plaintext: bytes, *, workspace: str, purpose: str, record_id: str, expires_at: int | None) -> Sealed:
        """Return the envelope of ``plaintext``, bound to workspace, purpose and record."""
        body = self._keys.seal(plaintext, workspace=workspace, purpose=purpose, record=record_id)
        return Sealed(purpose, record_id, workspace, sealed_with(body), body, expires_at, self._keys)

    @staticmethod
    def put(tx: Tx, sealed: Sealed) -> None:
        """Store an envelope as part of a unit."""
        sealed = sealed.renewed()
        tx.run(
            _INSERT,
            purpose=sealed.purpose,
            record_id=sealed.record_id,
            workspace_id=sealed.workspace_id,
            kek_id=sealed.kek_id,
            body=sealed.body,
            expires_at=sealed.expires_at,
        )

    @staticmethod
    def put_if_absent(tx: Tx, sealed: Sealed) -> None:
        """Store an envelope unless the record has one of this purpose already."""
        if not EnvelopeRepository(sealed.workspace_id).exists(tx, purpose=sealed.purpose, record_id=sealed.record_id):
            Vault.put(tx, sealed)

    async def open(self, *, workspace: str, purpose: str, record_id: str) -> bytes | None:
        """Return the plaintext, or None when the envelope was purged or never there."""
        body = await EnvelopeRepository(workspace).get(self._reader, purpose=purpose, record_id=record_id)
        if body is None:
            return None
        return self._keys.open(body, workspace=workspace, purpose=purpose, record=record_id)

    def unseal(self, body: bytes, *, workspace: str, purpose: str, record_id: str) -> bytes:
        """Return the plaintext of an envelope that was read with its record.

        :class:`~relay.crypto.envelope.EnvelopeError` unless it was sealed for this very place, unchanged.
        """
        return self._keys.open(body, workspace=workspace, purpose=purpose, record=record_id)
