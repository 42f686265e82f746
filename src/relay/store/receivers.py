"""Receivers of webhooks as rows, with the secrets that are alive: a repository bound to one workspace.

A secret's text is an envelope under the id of its row. Nothing here opens it.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Final

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update

from relay.store.envelopes import EnvelopeRepository
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import envelopes
from relay.store.tables.webhooks_in import webhook_receiver_secrets, webhook_receivers
from relay.store.vault import Sealed, Vault
from relay.store.writer import Tx

SECRET_PURPOSE: Final = "webhook_receiver_secret"  # noqa: S105 - what an envelope is for


@dataclass(frozen=True, slots=True)
class ReceiverRow:
    """A receiver, pinned to one scheme; times in microseconds. ``enabled`` is 0 or 1.

    ``legacy_until`` is the moment from which the legacy scheme is refused, None for every other scheme.
    """

    id: str
    workspace_id: str
    name: str
    scheme: str
    legacy_until: int | None
    enabled: int
    created_by: str
    created_at: int


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A secret without its text. It is alive until ``expires_at``, for ever when that is None."""

    id: str
    receiver_id: str
    workspace_id: str
    created_at: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class SealedReceiver:
    """An enabled receiver with its live secrets, newest first: pairs of a secret's id and its envelope."""

    row: ReceiverRow
    secrets: tuple[tuple[str, bytes], ...]


_RECEIVER: Final = [webhook_receivers.c[field.name] for field in fields(ReceiverRow)]
_SECRET: Final = [webhook_receiver_secrets.c[field.name] for field in fields(SecretRow)]
_THIS: Final = and_(webhook_receivers.c.id == bindparam("rcv"), webhook_receivers.c.workspace_id == bindparam("ws"))
_ITS_SECRETS: Final = and_(
    webhook_receiver_secrets.c.receiver_id == bindparam("rcv"),
    webhook_receiver_secrets.c.workspace_id == bindparam("ws"),
)

_INSERT: Final = Query(insert(webhook_receivers))
_INSERT_SECRET: Final = Query(insert(webhook_receiver_secrets))
_LOCK: Final = Query(select(*_RECEIVER).where(_THIS).with_for_update())
_SET: Final = Query(
    update(webhook_receivers)
    .where(_THIS)
    .values(name=bindparam("new_name"), enabled=bindparam("switch"), legacy_until=bindparam("until"))
)
_COUNT: Final = Query(
    select(func.count()).select_from(webhook_receivers).where(webhook_receivers.c.workspace_id == bindparam("ws"))
)
_DELETE: Final = Query(delete(webhook_receivers).where(_THIS))
_SECRETS: Final = Query(select(*_SECRET).where(_ITS_SECRETS).order_by(webhook_receiver_secrets.c.id))
_DELETE_SECRET: Final = Query(delete(webhook_receiver_secrets).where(webhook_receiver_secrets.c.id == bindparam("sec")))
_OUTLIVES: Final = or_(
    webhook_receiver_secrets.c.expires_at.is_(None), webhook_receiver_secrets.c.expires_at > bindparam("moment")
)
_END_ENVELOPES: Final = Query(
    update(envelopes)
    .where(
        envelopes.c.purpose == SECRET_PURPOSE,
        envelopes.c.workspace_id == bindparam("ws"),
        envelopes.c.record_id.in_(select(webhook_receiver_secrets.c.id).where(_ITS_SECRETS, _OUTLIVES)),
    )
    .values(expires_at=bindparam("moment"))
)
_END_SECRETS: Final = Query(
    update(webhook_receiver_secrets).where(_ITS_SECRETS, _OUTLIVES).values(expires_at=bindparam("moment"))
)


class ReceiverRepository:
    """The receivers of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def count(self, tx: Tx) -> int:
        """Return how many receivers there are."""
        row = tx.one(_COUNT, ws=self._workspace)
        return int(row[0]) if row else 0

    def insert(self, tx: Tx, row: ReceiverRow) -> None:
        """Insert a new receiver under this repository's workspace."""
        tx.run(_INSERT, **{**_values(row), "workspace_id": self._workspace})

    def lock(self, tx: Tx, receiver_id: str) -> ReceiverRow | None:
        """Return a receiver, unchanged by others until the transaction ends, or None."""
        row = tx.one(_LOCK, rcv=receiver_id, ws=self._workspace)
        return ReceiverRow(*row) if row else None

    def change(self, tx: Tx, row: ReceiverRow) -> None:
        """Write the name, the switch and the end of the legacy scheme of a receiver that is locked."""
        tx.run(_SET, rcv=row.id, ws=self._workspace, new_name=row.name, switch=row.enabled, until=row.legacy_until)

    def delete(self, tx: Tx, receiver_id: str) -> None:
        """Delete a receiver with its secrets; what it has received stays."""
        for secret in self.secrets(tx, receiver_id):
            self.drop_secret(tx, secret.id)
        tx.run(_DELETE, rcv=receiver_id, ws=self._workspace)

    def secrets(self, tx: Tx, receiver_id: str) -> list[SecretRow]:
        """Return the secrets of a receiver, oldest first, ended ones included."""
        return [SecretRow(*row) for row in tx.all(_SECRETS, rcv=receiver_id, ws=self._workspace)]

    def add_secret(self, tx: Tx, row: SecretRow, sealed: Sealed) -> None:
        """Insert a secret with its envelope."""
        tx.run(_INSERT_SECRET, **{**_values(row), "workspace_id": self._workspace})
        Vault.put(tx, sealed)

    def drop_secret(self, tx: Tx, secret_id: str) -> None:
        """Delete a secret with its envelope."""
        EnvelopeRepository(self._workspace).drop(tx, purpose=SECRET_PURPOSE, record_id=secret_id)
        tx.run(_DELETE_SECRET, sec=secret_id)

    def end_secrets(self, tx: Tx, receiver_id: str, at: int) -> None:
        """Let every secret that would live longer end at ``at``; the purge takes it and its envelope then."""
        tx.run(_END_ENVELOPES, rcv=receiver_id, ws=self._workspace, moment=at)
        tx.run(_END_SECRETS, rcv=receiver_id, ws=self._workspace, moment=at)

    async def find(self, reader: Reader, receiver_id: str) -> ReceiverRow | None:
        """Return a receiver, or None."""
        row = await reader.one(
            select(*_RECEIVER).where(
                webhook_receivers.c.id == receiver_id, webhook_receivers.c.workspace_id == self._workspace
            )
        )
        return ReceiverRow(*row) if row else None

    async def page(self, reader: Reader, before: str | None, limit: int) -> list[ReceiverRow]:
        """Return receivers, newest first, those older than the receiver ``before`` if one is given."""
        query = select(*_RECEIVER).where(webhook_receivers.c.workspace_id == self._workspace)
        if before is not None:
            query = query.where(webhook_receivers.c.id < before)
        rows = await reader.all(query.order_by(webhook_receivers.c.id.desc()).limit(limit))
        return [ReceiverRow(*row) for row in rows]

    async def secrets_of(self, reader: Reader, receiver_ids: Sequence[str]) -> dict[str, list[SecretRow]]:
        """Return the secrets of these receivers, oldest first, ended ones included."""
        found: dict[str, list[SecretRow]] = {receiver_id: [] for receiver_id in receiver_ids}
        rows = await reader.all(
            select(*_SECRET)
            .where(
                webhook_receiver_secrets.c.receiver_id.in_(receiver_ids),
                webhook_receiver_secrets.c.workspace_id == self._workspace,
            )
            .order_by(webhook_receiver_secrets.c.id)
        )
        for row in rows:
            secret = SecretRow(*row)
            found[secret.receiver_id].append(secret)
        return found


async def secrets_in_use(reader: Reader, *, before: int, after: str, most: int) -> list[SecretRow]:
    """Return up to ``most`` newest secrets of enabled receivers made up to ``before``, by id, of every workspace."""
    rows = await reader.all(
        select(*_SECRET)
        .join(webhook_receivers, webhook_receivers.c.id == webhook_receiver_secrets.c.receiver_id)
        .where(
            webhook_receivers.c.enabled == 1,
            webhook_receiver_secrets.c.expires_at.is_(None),
            webhook_receiver_secrets.c.created_at <= before,
            webhook_receiver_secrets.c.id > after,
        )
        .order_by(webhook_receiver_secrets.c.id)
        .limit(most)
    )
    return [SecretRow(*row) for row in rows]


async def find_for_delivery(reader: Reader, receiver_id: str, at: int) -> SealedReceiver | None:
    """Return the enabled receiver of this id with what is alive of its secrets, whatever its workspace.

    That is how whoever sends to it is found: by an id that cannot be guessed, before anything else is known.
    """
    secrets = webhook_receiver_secrets
    rows = await reader.all(
        select(*_RECEIVER, secrets.c.id, envelopes.c.body)
        .join_from(webhook_receivers, secrets, secrets.c.receiver_id == webhook_receivers.c.id)
        .join(
            envelopes,
            and_(
                envelopes.c.purpose == SECRET_PURPOSE,
                envelopes.c.record_id == secrets.c.id,
                envelopes.c.workspace_id == webhook_receivers.c.workspace_id,
            ),
        )
        .where(
            webhook_receivers.c.id == receiver_id,
            webhook_receivers.c.enabled == 1,
            or_(secrets.c.expires_at.is_(None), secrets.c.expires_at > at),
        )
        .order_by(secrets.c.id.desc())
    )
    if not rows:
        return None
    return SealedReceiver(ReceiverRow(*rows[0][:-2]), tuple((str(row[-2]), bytes(row[-1])) for row in rows))


def _values(row: ReceiverRow | SecretRow) -> dict[str, object]:
    return {field.name: value for field, value in zip(fields(row), astuple(row), strict=True)}
