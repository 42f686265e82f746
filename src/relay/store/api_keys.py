"""API keys as rows: a repository bound to one workspace, and the few look-ups that know none yet.

No function here returns a hash; a key's text never comes this far.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, bindparam, insert, select, update

from relay.core.principal import KeyKind
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import api_keys, generations, installation, workspaces
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """What is kept of a key, its hash left out. Times are microseconds; ``made_by`` lists key ids, nearest last.

    ``allowed_networks`` is the key's own list; empty is any network.
    """

    id: str
    workspace_id: str
    kind: KeyKind
    name: str
    prefix: str
    last4: str
    scopes: tuple[str, ...]
    made_by: tuple[str, ...]
    created_at: int
    expires_at: int
    revoked_at: int | None = None
    last_used_at: int | None = None
    successor_id: str | None = None
    allowed_networks: tuple[str, ...] = ()

    def lives(self, now: int) -> bool:
        """Say whether the key opens anything at ``now``: not revoked, not expired."""
        return self.revoked_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key as it is found when somebody presents it: with the networks that its workspace allows."""

    record: ApiKeyRecord
    workspace_networks: tuple[str, ...]


_LISTS: Final = ("scopes", "made_by", "allowed_networks")
_FIELDS: Final = tuple(ApiKeyRecord.__dataclass_fields__)
_COLUMNS: Final = tuple(api_keys.c[name] for name in _FIELDS)
_FOUND: Final = select(*_COLUMNS, workspaces.c.allowed_networks).join_from(
    api_keys, workspaces, workspaces.c.id == api_keys.c.workspace_id
)
_MINE: Final = (api_keys.c.workspace_id == bindparam("w"), api_keys.c.id == bindparam("key"))

_FIND: Final = Query(select(*_COLUMNS).where(*_MINE).with_for_update())
_INSERT: Final = Query(insert(api_keys).values({name: bindparam(name) for name in (*_FIELDS, "hash", "pepper_id")}))
_REVOKE: Final = Query(update(api_keys).where(*_MINE).values(revoked_at=bindparam("now")))
_SUCCEED: Final = Query(
    update(api_keys).where(*_MINE).values(successor_id=bindparam("successor"), expires_at=bindparam("ends"))
)
_RESTRICT: Final = Query(update(api_keys).where(*_MINE).values(allowed_networks=bindparam("networks")))
_WORKSPACE_OF: Final = Query(select(api_keys.c.workspace_id).where(api_keys.c.id == bindparam("key")))
_BUMP: Final = Query(update(generations).where(generations.c.name == "keys").values(value=generations.c.value + 1))
_CLAIM_FIRST: Final = Query(
    update(installation).where(installation.c.first_key_made_at.is_(None)).values(first_key_made_at=bindparam("now"))
)
_USED: Final = Query(
    update(api_keys)
    .where(
        api_keys.c.id == bindparam("key"),
        api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < bindparam("used")),
    )
    .values(last_used_at=bindparam("used"))
)


class ApiKeyRepository:
    """The keys of one workspace, inside a transaction."""

    def __init__(self, tx: Tx, workspace_id: str) -> None:
        self._tx = tx
        self._workspace_id = workspace_id

    def find(self, key_id: str) -> ApiKeyRecord | None:
        """Return the key, locked until the transaction ends, so that of two changes the second sees the first."""
        row = self._tx.one(_FIND, w=self._workspace_id, key=key_id)
        return _record(row) if row else None

    def add(self, record: ApiKeyRecord, key_hash: str, pepper_id: str) -> None:
        """Insert a new key; ValueError for a record of another workspace."""
        if record.workspace_id != self._workspace_id:
            raise ValueError("the record belongs to another workspace")
        row = {name: getattr(record, name) for name in _FIELDS}
        row |= {name: json.dumps(row[name]) for name in _LISTS}
        self._tx.run(_INSERT, **row, hash=key_hash, pepper_id=pepper_id)

    def revoke(self, key_id: str, now: int) -> None:
        """Mark the key revoked and void every cache that may hold it."""
        self._tx.run(_REVOKE, w=self._workspace_id, key=key_id, now=now)
        self._tx.run(_BUMP)

    def succeed(self, key_id: str, successor_id: str, ends_at: int) -> None:
        """Name the key's successor, let the key end at ``ends_at`` and void every cache that may hold it."""
        self._tx.run(_SUCCEED, w=self._workspace_id, key=key_id, successor=successor_id, ends=ends_at)
        self._tx.run(_BUMP)

    def restrict(self, key_id: str, networks: Sequence[str]) -> None:
        """Replace the networks that the key may be used from and void every cache that may hold it."""
        self._tx.run(_RESTRICT, w=self._workspace_id, key=key_id, networks=json.dumps(list(networks)))
        self._tx.run(_BUMP)


def void_caches(tx: Tx) -> None:
    """Void every cache of keys, in every process, once the transaction has been committed."""
    tx.run(_BUMP)


async def list_keys(reader: Reader, workspace_id: str, before: str | None, limit: int) -> list[ApiKeyRecord]:
    """Return the workspace's keys, newest first, those older than the key ``before`` if one is given."""
    return await _listed(reader, [api_keys.c.workspace_id == workspace_id], before, limit)


async def list_keys_of_every_workspace(reader: Reader, before: str | None, limit: int) -> list[ApiKeyRecord]:
    """As :func:`list_keys`, across workspaces. For the operator's command line alone."""
    return await _listed(reader, [], before, limit)


async def find_by_hash(reader: Reader, hashes: Sequence[str]) -> FoundKey | None:
    """Return the key that has one of these hashes, whatever its workspace or state: that is how a caller is found."""
    return await _only(reader, _FOUND.where(api_keys.c.hash.in_(hashes)))


async def find_by_id(reader: Reader, key_id: str) -> FoundKey | None:
    """Return the key of this id, whatever its workspace or state: that is how a credential is looked at again."""
    return await _only(reader, _FOUND.where(api_keys.c.id == key_id))


async def successors_of(reader: Reader, workspace_id: str, key_id: str) -> frozenset[str]:
    """Return the keys that followed a key by rotation: its successor, that one's, and so on."""
    found: list[str] = []
    while True:
        last = found[-1] if found else key_id
        row = await reader.one(
            select(api_keys.c.successor_id).where(api_keys.c.workspace_id == workspace_id, api_keys.c.id == last)
        )
        if row is None or row[0] is None or row[0] in found:
            return frozenset(found)
        found.append(row[0])


def workspace_of(tx: Tx, key_id: str) -> str | None:
    """Return the workspace of a key. For the operator's command line, which belongs to none."""
    row = tx.one(_WORKSPACE_OF, key=key_id)
    return row[0] if row else None


def claim_first_key(tx: Tx, now: int) -> bool:
    """Set the installation's mark that its first key has been made; False when it was set, or there is none to set."""
    return tx.run(_CLAIM_FIRST, now=now) == 1


def note_used(tx: Tx, used: Sequence[tuple[str, int]]) -> None:
    """Write when keys were last used; an earlier time never replaces a later one."""
    # In the order of ids: two processes that lock the same rows in different orders would wait for each other.
    tx.many(_USED, [{"key": key_id, "used": moment} for key_id, moment in sorted(used)])


async def keys_that_end(reader: Reader, after: int, before: int) -> list[ApiKeyRecord]:
    """Return the keys of every workspace that end between two times, and are neither revoked nor succeeded."""
    ends, alive = api_keys.c.expires_at, (api_keys.c.revoked_at.is_(None), api_keys.c.successor_id.is_(None))
    rows = await reader.all(select(*_COLUMNS).where(ends > after, ends <= before, *alive).order_by(api_keys.c.id))
    return [_record(row) for row in rows]


async def _listed(
    reader: Reader, conditions: list[ColumnElement[bool]], before: str | None, limit: int
) -> list[ApiKeyRecord]:
    if before is not None:
        conditions = [*conditions, api_keys.c.id < before]
    rows = await reader.all(select(*_COLUMNS).where(*conditions).order_by(api_keys.c.id.desc()).limit(limit))
    return [_record(row) for row in rows]


async def _only(reader: Reader, statement: Select[Any]) -> FoundKey | None:
    row = await reader.one(statement)
    return FoundKey(_record(row[:-1]), tuple(json.loads(row[-1]))) if row else None


def _record(row: Any) -> ApiKeyRecord:
    values = dict(zip(_FIELDS, row, strict=True))
    for name in _LISTS:
        values[name] = tuple(json.loads(values[name]))
    return ApiKeyRecord(**values)
