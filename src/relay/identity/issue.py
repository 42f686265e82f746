"""Making, rotating and revoking keys: each one unit of work with its audit event.

The text of a key and its hash appear in no event, no log and no error.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from relay.audit.record import event
from relay.core.clock import DAY, HOUR, iso, now
from relay.core.ids import new_id
from relay.core.principal import BUNDLES, KeyKind, Principal
from relay.core.problem import NotFound, Unauthenticated
from relay.crypto.api_key import KeyEnv, new_api_key, parse_api_key
from relay.identity import rules
from relay.identity.peppers import Peppers
from relay.store.api_keys import ApiKeyRecord, ApiKeyRepository, claim_first_key, workspace_of
from relay.store.database import Database
from relay.store.workspaces import ensure_workspace
from relay.store.writer import Tx, Unit

FIRST_WORKSPACE: Final = "default"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation made: the successor, its text (shown once), and the predecessor with its new end."""

    record: ApiKeyRecord
    key_text: str = field(repr=False)
    predecessor: ApiKeyRecord


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is not stored yet."""

    text: str = field(repr=False)
    hash: str = field(repr=False)
    pepper_id: str
    id: str


class Issuer:
    """Changes keys on behalf of a principal. Concurrent and repeated calls are safe, in one process or several."""

    def __init__(self, database: Database, peppers: Peppers, env: KeyEnv) -> None:
        self.database = database
        self._peppers = peppers
        self._env = env
        self._running: set[asyncio.Task[Any]] = set()

    async def create(
        self,
        maker: Principal,
        *,
        workspace: str,
        kind: KeyKind,
        scopes: Iterable[str],
        name: str = "",
        expires_days: int = rules.DEFAULT_DAYS,
        allowed_networks: Sequence[str] = (),
        honey: bool = False,
        request_id: str,
    ) -> tuple[ApiKeyRecord, str]:
        """Make a key and return its record and its text, which is kept nowhere.

        A ``honey`` key opens nothing, and its use raises an alarm; only a person makes one (403). Nothing that it
        leaves behind but its row says so.

        ``scopes`` are names of scopes or bundles. ``allowed_networks`` are those that the key may be used from: by
        default its maker's, beyond which it cannot go, or any. Refused as :mod:`relay.identity.rules` says, and with
        401 when the maker's own key has ended meanwhile. A workspace that does not exist yet is made.
        """
        granted = rules.checked_scopes(scopes)
        rules.require_may_make(maker, workspace, kind, granted)
        rules.require_may_set_trap(maker, honey)
        networks = rules.checked_networks(allowed_networks)
        new, moment = await self.new_key(), now()
        record = ApiKeyRecord(
            **self.names(new),
            workspace_id=workspace,
            kind=kind,
            name=rules.checked_name(name),
            scopes=granted,
            made_by=rules.makers_of_new(maker),
            created_at=moment,
            expires_at=moment + rules.checked_days(expires_days) * DAY,
            honey=honey,
        )

        def unit(tx: Tx) -> ApiKeyRecord:
            own = networks_of_living(tx, maker, moment, grants=granted)
            made = replace(record, allowed_networks=rules.narrowed(own, networks))
            _insert(tx, maker, made, new, request_id)
            return made

        return await self.database.writer.run(unit), new.text

    async def first_key(self, actor: Principal, request_id: str) -> str | None:
        """Make the installation's first key and return its text; None if it has been made before, by any process.

        It is of kind person, with every scope, in workspace ``default``. The mark in the row of ``installation`` is set
        in the same transaction; without that row nothing is made.
        """
        new, moment = await self.new_key(), now()
        record = ApiKeyRecord(
            **self.names(new),
            workspace_id=FIRST_WORKSPACE,
            kind="person",
            name="first key",
            scopes=BUNDLES["admin"],
            made_by=rules.makers_of_new(actor),
            created_at=moment,
            expires_at=moment + rules.DEFAULT_DAYS * DAY,
        )

        def unit(tx: Tx) -> bool:
            if not claim_first_key(tx, moment):
                return False
            _insert(tx, actor, record, new, request_id)
            return True

        return new.text if await self.database.writer.run(unit) else None

    async def rotate(
        self, actor: Principal, key_id: str, *, overlap_hours: int = rules.DEFAULT_OVERLAP_HOURS, request_id: str
    ) -> Rotation:
        """Make a successor with the same kind, scopes, name and lifetime; the old key ends after the overlap.

        The old key never lives longer than it would have, nor its child tokens longer than it. 404 for a key of another
        workspace, 409 for one that has ended, was rotated before or is a child token, 403 as
        :func:`relay.identity.rules.require_may_rotate` says.
        """
        overlap = rules.checked_overlap(overlap_hours) * HOUR
        new, moment = await self.new_key(), now()

        def unit(tx: Tx) -> Rotation:
            networks_of_living(tx, actor, moment)
            keys, old = found_key(tx, actor, key_id)
            rules.require_may_rotate(actor, old, moment)
            own = networks_of_living(tx, actor, moment, grants=old.scopes)
            rules.require_not_widened(own, old.allowed_networks)
            lifetime = min(max(old.expires_at - old.created_at, DAY), rules.MAX_DAYS * DAY)
            record = replace(
                old,
                **self.names(new),
                made_by=rules.makers_of_successor(old, actor),
                created_at=moment,
                expires_at=moment + lifetime,
                last_used_at=None,
            )
            ended = replace(old, successor_id=new.id, expires_at=min(old.expires_at, moment + overlap))
            keys.succeed(old.id, new.id, ended.expires_at)
            keys.add(record, new.hash, new.pepper_id)
            _note(tx, "rotated", actor, record, old.id, request_id, successor=new.id, ends_at=iso(ended.expires_at))
            return Rotation(record, new.text, ended)

        return await self.change(unit)

    async def revoke(self, actor: Principal, key_id: str, *, request_id: str) -> ApiKeyRecord:
        """End a key with its child tokens now and return its record; one that was revoked before stays as it is.

        It opens nothing any more in this process when this returns, and a second later in every other. 404 for a key of
        another workspace, 403 for a person's key if ``actor`` is none. A key may revoke itself.
        """
        moment = now()

        def unit(tx: Tx) -> ApiKeyRecord:
            keys, key = found_key(tx, actor, key_id)
            rules.require_may_end(actor, key)
            if key.revoked_at is not None:
                return key
            networks_of_living(tx, actor, moment)
            keys.revoke(key.id, moment)
            _note(tx, "revoked", actor, key, key.id, request_id)
            return replace(key, revoked_at=moment)

        return await self.change(unit)

    async def change(self, unit: Unit[T]) -> T:
        """Run a unit that changes what caches of keys hold; they are void in this process when this returns."""
        # A caller that hangs up must not leave this process with a cache that still holds the key.
        task = asyncio.create_task(self._write_and_void(unit))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _write_and_void(self, unit: Unit[T]) -> T:
        try:
            return await self.database.writer.run(unit)
        finally:  # also when it failed: the change may have become durable without an answer
            self.database.generation.changed()

    async def new_key(self) -> NewKey:
        """Return a fresh key, hashed under the newest pepper."""
        await self._peppers.refresh()
        text = new_api_key(self._env)
        key_hash, pepper_id = self._peppers.for_storage(text)
        return NewKey(text, key_hash, pepper_id, new_id("key"))

    @staticmethod
    def names(new: NewKey) -> dict[str, Any]:
        """Return the members of a record that follow from the key itself."""
        parsed = parse_api_key(new.text)
        assert parsed is not None
        return {"id": new.id, "prefix": parsed.prefix, "last4": parsed.last4}


def found_key(tx: Tx, actor: Principal, key_id: str) -> tuple[ApiKeyRepository, ApiKeyRecord]:
    """Return the key, locked, from the actor's workspace; from any if the actor is the operator."""
    if not rules.is_key_id(key_id):
        raise NotFound("There is no such key.")
    workspace_id = workspace_of(tx, key_id) if actor.auth_method == "operator" else actor.workspace_id
    keys = ApiKeyRepository(tx, workspace_id or "")
    key = keys.find(key_id)
    if key is None:
        raise NotFound("There is no such key.")
    return keys, key


def networks_of_living(tx: Tx, actor: Principal, moment: int, *, grants: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the networks that the actor's own key is bound to; none for any, and for who acts without a key.

    401 for a key that was revoked while its request was under way: it makes no other key. 403 for one that has lost
    meanwhile what it ``grants`` to another, or its right to manage keys: what it makes would outlive what it lost.
    """
    if actor.auth_method != "api_key":
        return ()
    own = ApiKeyRepository(tx, actor.workspace_id).find(actor.credential_id)
    if own is None or not own.lives(moment):
        raise Unauthenticated
    rules.require_scopes_of(own, {*grants, *(actor.scopes & {"keys:manage"})})
    return own.allowed_networks


def _insert(tx: Tx, maker: Principal, record: ApiKeyRecord, new: NewKey, request_id: str) -> None:
    made = ensure_workspace(tx, record.workspace_id, record.created_at)
    ApiKeyRepository(tx, record.workspace_id).add(record, new.hash, new.pepper_id)
    _note(tx, "created", maker, record, record.id, request_id, workspace_made=made)


def _note(tx: Tx, what: str, actor: Principal, record: ApiKeyRecord, target: str, request_id: str, **more: Any) -> None:
    details = {"kind": record.kind, "scopes": list(record.scopes), "expires_at": iso(record.expires_at), **more}
    if record.allowed_networks:
        details["allowed_networks"] = list(record.allowed_networks)
    tx.record(
        event(
            f"identity:key:{what}",
            workspace_id=record.workspace_id,
            principal=actor.id,
            request_id=request_id,
            target=target,
            details=details,
        )
    )
