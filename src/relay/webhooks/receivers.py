"""Receivers of a workspace: made, changed, rotated, deleted, tried out; and what they have received."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, Final, Literal

from relay.audit.record import event
from relay.core.clock import HOUR, MICROSECONDS, end_of_day, now
from relay.core.event import EventDraft
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict, NotFound
from relay.crypto.webhooks import Scheme, key_of, new_secret_for
from relay.identity.rules import checked_name, invalid
from relay.store.database import Database
from relay.store.endpoints import take_turn
from relay.store.received import BODY_PURPOSE, ReceivedRepository, ReceivedRow
from relay.store.receivers import SECRET_PURPOSE, ReceiverRepository, ReceiverRow, SecretRow
from relay.store.vault import Sealed, Vault
from relay.store.writer import Tx
from relay.webhooks.receive import Accepted, Receiving
from relay.webhooks.receive_body import value_of

MAX_RECEIVERS: Final = 200
MAX_LIVE_SECRETS: Final = 5
MAX_LEGACY_DAYS: Final = 366
DEFAULT_OVERLAP_HOURS: Final = 24
MAX_OVERLAP_HOURS: Final = 30 * 24
MAX_PAGE: Final = 200
DEFAULT_PAGE: Final = 50

# Stripe and Slack make the secret and show it; nobody else's could be right.
_GIVEN_BY_SENDER: Final = frozenset({"stripe", "slack"})
_CURSOR: Final = {kind: re.compile(rf"{kind}_[0-9a-f]{{32}}") for kind in ("rcv", "evt")}


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver with its secrets that are alive, oldest first; never their texts."""

    row: ReceiverRow
    secrets: tuple[SecretRow, ...]


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A receiver that has just got a secret. ``text`` is shown this once, None when the caller gave it."""

    receiver: Receiver
    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first; ``next_cursor`` leads to older ones and is None at the end."""

    items: tuple[Any, ...]
    next_cursor: str | None


PayloadState = Literal["stored", "erased"]


@dataclass(frozen=True, slots=True)
class Received:
    """An event with the value that its body stands for; ``erased`` when the body is gone."""

    row: ReceivedRow
    state: PayloadState
    payload: Any = field(repr=False)


class Receivers:
    """The receivers of every workspace; each method acts within that of the principal who asks."""

    def __init__(self, database: Database, vault: Vault, receiving: Receiving) -> None:
        self._database = database
        self._vault = vault
        self._receiving = receiving

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        scheme: Scheme,
        secret: str | None,
        legacy_until: date | None,
        request_id: str,
    ) -> NewSecret:
        """Make an enabled receiver. 422 for a secret that is weak or missing, or a legacy date that is not right.

        409 beyond 200 receivers in the workspace.
        """
        at = now()
        workspace = principal.workspace_id
        text = _secret(scheme, secret)
        row = ReceiverRow(
            id=new_id("rcv"),
            workspace_id=workspace,
            name=checked_name(name),
            scheme=scheme,
            legacy_until=_legacy_end(scheme, legacy_until, at),
            enabled=1,
            created_by=principal.id,
            created_at=at,
        )
        first, sealed = self._seal(row, text, at)
        draft = _draft("created", principal, row, request_id, {"scheme": scheme, "name": row.name})
        repository = ReceiverRepository(workspace)

        def unit(tx: Tx) -> None:
            take_turn(tx)
            if repository.count(tx) >= MAX_RECEIVERS:
                raise Conflict(f"A workspace has at most {MAX_RECEIVERS} receivers.")
            repository.insert(tx, row)
            repository.add_secret(tx, first, sealed)
            tx.record(draft)

        await self._database.writer.run(unit)
        return NewSecret(Receiver(row, (first,)), None if secret is not None else text)

    async def change(
        self,
        principal: Principal,
        receiver_id: str,
        *,
        name: str | None,
        enabled: bool | None,
        legacy_until: date | None,
        request_id: str,
    ) -> Receiver:
        """Set what is given and leave the rest. 404, and 422 as for :meth:`create`; the scheme stays for ever."""
        at = now()
        repository = ReceiverRepository(principal.workspace_id)

        def unit(tx: Tx) -> tuple[ReceiverRow, list[SecretRow]]:
            row = _found(repository.lock(tx, receiver_id))
            changed = replace(
                row,
                name=row.name if name is None else checked_name(name),
                enabled=row.enabled if enabled is None else int(enabled),
                legacy_until=row.legacy_until if legacy_until is None else _legacy_end(row.scheme, legacy_until, at),
            )
            secrets = repository.secrets(tx, receiver_id)
            if changed != row:
                repository.change(tx, changed)
                details = {"name": changed.name, "enabled": bool(changed.enabled), "legacy_end": changed.legacy_until}
                tx.record(_draft("changed", principal, changed, request_id, details))
            return changed, secrets

        row, secrets = await self._database.writer.run(unit)
        return Receiver(row, _live(secrets, at))

    async def rotate(
        self, principal: Principal, receiver_id: str, *, secret: str | None, overlap_hours: int, request_id: str
    ) -> NewSecret:
        """Add a secret; those before it end after the overlap, at once when it is 0.

        404; 422 for a weak or missing secret; 409 when five would be alive at once.
        """
        at = now()
        repository = ReceiverRepository(principal.workspace_id)
        found = _found(await repository.find(self._database.reader, receiver_id))
        text = _secret(found.scheme, secret)
        fresh, sealed = self._seal(found, text, at)
        ends = at + overlap_hours * HOUR

        def unit(tx: Tx) -> tuple[ReceiverRow, list[SecretRow]]:
            row = _found(repository.lock(tx, receiver_id))
            if overlap_hours and len(_live(repository.secrets(tx, receiver_id), at)) >= MAX_LIVE_SECRETS:
                raise Conflict(
                    f"At most {MAX_LIVE_SECRETS} secrets live at once. Wait until one has ended, or rotate with "
                    "overlap_hours 0, which ends them all now."
                )
            repository.end_secrets(tx, receiver_id, ends)
            repository.add_secret(tx, fresh, sealed)
            tx.record(_draft("rotated", principal, row, request_id, {"overlap_hours": overlap_hours}))
            return row, repository.secrets(tx, receiver_id)

        row, secrets = await self._database.writer.run(unit)
        return NewSecret(Receiver(row, _live(secrets, at)), None if secret is not None else text)

    async def delete(self, principal: Principal, receiver_id: str, *, request_id: str) -> int:
        """Delete a receiver with its secrets and return when; what it has received stays. 404 when there is none."""
        at = now()
        repository = ReceiverRepository(principal.workspace_id)

        def unit(tx: Tx) -> None:
            row = _found(repository.lock(tx, receiver_id))
            repository.delete(tx, receiver_id)
            tx.record(_draft("deleted", principal, row, request_id, {"name": row.name}))

        await self._database.writer.run(unit)
        return at

    async def try_out(self, principal: Principal, receiver_id: str, *, request_id: str) -> Accepted:
        """Let the receiver accept a ``webhook.test`` event that its own newest secret has signed. 404; 409."""
        repository = ReceiverRepository(principal.workspace_id)
        row = _found(await repository.find(self._database.reader, receiver_id))
        return await self._receiving.try_out(row, principal.id, request_id)

    async def page(self, workspace_id: str, *, cursor: str | None, limit: int) -> Page:
        """Return receivers, newest first. 422 for a cursor that no page gave."""
        reader, repository = self._database.reader, ReceiverRepository(workspace_id)
        rows = await repository.page(reader, _cursor("rcv", cursor), limit + 1)
        page = _page(rows, limit)
        secrets = await repository.secrets_of(reader, [row.id for row in page.items])
        at = now()
        return Page(tuple(Receiver(row, _live(secrets[row.id], at)) for row in page.items), page.next_cursor)

    async def events(
        self, workspace_id: str, *, cursor: str | None, limit: int, receiver_id: str | None, kind: str | None
    ) -> Page:
        """Return what was received, newest first, without payloads. 422 for a cursor that no page gave."""
        rows = await ReceivedRepository(workspace_id).page(
            self._database.reader, before=_cursor("evt", cursor), limit=limit + 1, receiver_id=receiver_id, kind=kind
        )
        return _page(rows, limit)

    async def event(self, workspace_id: str, event_id: str) -> Received:
        """Return an event with its payload. 404 when there is none, or it has had its time."""
        row = await ReceivedRepository(workspace_id).find(self._database.reader, event_id)
        if row is None:
            raise NotFound("There is no such event.")
        body = await self._vault.open(workspace=workspace_id, purpose=BODY_PURPOSE, record_id=event_id)
        if body is None:
            return Received(row, "erased", None)
        return Received(row, "stored", value_of(row.content_type, body))

    def _seal(self, receiver: ReceiverRow, text: str, at: int) -> tuple[SecretRow, Sealed]:
        row = SecretRow(new_id("sec"), receiver.id, receiver.workspace_id, at)
        sealed = self._vault.seal(
            text.encode(), workspace=row.workspace_id, purpose=SECRET_PURPOSE, record_id=row.id, expires_at=None
        )
        return row, sealed


def _secret(scheme: str, given: str | None) -> str:
    if given is None:
        if scheme in _GIVEN_BY_SENDER:
            raise invalid("/secret", f"Give the signing secret that {scheme.capitalize()} shows.")
        return new_secret_for(scheme)  # type: ignore[arg-type]  # rows hold text
    try:
        key_of(scheme, given)  # type: ignore[arg-type]
    except ValueError as error:
        raise invalid("/secret", f"The secret {error}.") from None
    return given


def _legacy_end(scheme: str, until: date | None, at: int) -> int | None:
    if scheme != "legacy":
        if until is not None:
            raise invalid("/legacy_until", "Only the legacy scheme has a last day.")
        return None
    if until is None:
        raise invalid("/legacy_until", "The legacy scheme can be replayed, so it needs a last day, like 2030-12-31.")
    if not 0 < (until - datetime.fromtimestamp(at / MICROSECONDS, UTC).date()).days <= MAX_LEGACY_DAYS:
        raise invalid("/legacy_until", f"From tomorrow on, {MAX_LEGACY_DAYS} days at most.")
    return end_of_day(until)


def _live(secrets: Sequence[SecretRow], at: int) -> tuple[SecretRow, ...]:
    return tuple(secret for secret in secrets if secret.expires_at is None or secret.expires_at > at)


def _found(row: ReceiverRow | None) -> ReceiverRow:
    if row is None:
        raise NotFound("There is no such receiver.")
    return row


def _draft(what: str, principal: Principal, row: ReceiverRow, request_id: str, details: dict[str, Any]) -> EventDraft:
    return event(
        f"webhooks:receiver:{what}",
        workspace_id=row.workspace_id,
        principal=principal.id,
        request_id=request_id,
        target=row.id,
        details=details,
    )


def _cursor(kind: str, cursor: str | None) -> str | None:
    if cursor is not None and not _CURSOR[kind].fullmatch(cursor):
        raise invalid("/cursor", "Not a cursor that an earlier page gave.")
    return cursor


def _page(rows: Sequence[Any], limit: int) -> Page:
    items = tuple(rows[:limit])
    return Page(items, items[-1].id if len(rows) > limit else None)
