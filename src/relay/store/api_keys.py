"""API keys as rows: a repository bound to one workspace, and the few look-ups that know none yet.

No function here returns a hash that it was not given; a key's text never comes this far.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, bindparam, func, insert, select, update

from relay.core.principal import KeyKind
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import api_keys, generations, installation, workspaces
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """What is kept of a key, its hash left out. Times are microseconds; ``made_by`` lists key ids, nearest last.

    ``allowed_networks`` is the key's own list; empty is any network. ``parent_id`` names the key that minted a child
    token for itself, ``allowed_actions`` all that it may run; empty is any action. A ``honey`` key opens nothing: its
    use is the alarm. ``quarantine_reason`` is a code.
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
    parent_id: str | None = None
    allowed_actions: tuple[str, ...] = ()
    honey: bool = False
    quarantined_at: int | None = None
    quarantine_reason: str | None = None

    def lives(self, now: int) -> bool:
        """Say whether the key is neither revoked nor expired nor in quarantine at ``now``. Of a child token its own
        half alone: see :meth:`FoundKey.lives`.
        """
        return self.revoked_at is None and self.quarantined_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key as it is found when somebody presents it: with the networks that its workspace allows, and its parent.

    A child token has what it was given as far as its parent has it now, and for as long.
    """

    record: ApiKeyRecord
    workspace_networks: tuple[str, ...]
    parent: ApiKeyRecord | None = None

    def lives(self, now: int) -> bool:
        """Say whether the key opens anything at ``now``; a child token lives only while its parent does."""
        if self.record.parent_id is None:
            return self.record.lives(now)
        return self.record.lives(now) and self.parent is not None and self.parent.lives(now)

    @property
    def ends_at(self) -> int:
        """Return when the key ends if nobody ends it before."""
        return min(self.record.expires_at, self.record.expires_at if self.parent is None else self.parent.expires_at)

    @property
    def scopes(self) -> frozenset[str]:
        """Return what the key may do."""
        scopes = frozenset[str](self.record.scopes)
        return scopes if self.parent is None else scopes & frozenset(self.parent.scopes)


_LISTS: Final = ("scopes", "made_by", "allowed_networks", "allowed_actions")
_FIELDS: Final = tuple(ApiKeyRecord.__dataclass_fields__)
_COLUMNS: Final = tuple(api_keys.c[name] for name in _FIELDS)
_PARENT: Final = api_keys.alias("parent")
_FOUND: Final = (
    select(*_COLUMNS, workspaces.c.allowed_networks, *(_PARENT.c[name] for name in _FIELDS))
    .join_from(api_keys, workspaces, workspaces.c.id == api_keys.c.workspace_id)
    .outerjoin(_PARENT, (_PARENT.c.id == api_keys.c.parent_id) & (_PARENT.c.workspace_id == api_keys.c.workspace_id))
)
_MINE: Final = (api_keys.c.workspace_id == bindparam("w"), api_keys.c.id == bindparam("key"))

_FIND: Final = Query(select(*_COLUMNS).where(*_MINE).with_for_update())
_INSERT: Final = Query(insert(api_keys).values({name: bindparam(name) for name in (*_FIELDS, "hash", "pepper_id")}))
_REVOKE: Final = Query(update(api_keys).where(*_MINE).values(revoked_at=bindparam("now")))
_SUCCEED: Final = Query(
    update(api_keys).where(*_MINE).values(successor_id=bindparam("successor"), expires_at=bindparam("ends"))
)
_CHILDREN: Final = (api_keys.c.workspace_id == bindparam("w"), api_keys.c.parent_id == bindparam("key"))
_REVOKE_CHILDREN: Final = Query(
    update(api_keys).where(*_CHILDREN, api_keys.c.revoked_at.is_(None)).values(revoked_at=bindparam("now"))
)
_CHILD_IDS: Final = Query(select(api_keys.c.id).where(*_CHILDREN))
_LIVING_CHILDREN: Final = Query(
    select(func.count())
    .select_from(api_keys)
    .where(*_CHILDREN, api_keys.c.expires_at > bindparam("now"), api_keys.c.revoked_at.is_(None))
)
_QUARANTINE: Final = Query(
    update(api_keys).where(*_MINE).values(quarantined_at=bindparam("now"), quarantine_reason=bindparam("reason"))
)
_NARROW: Final = Query(update(api_keys).where(*_MINE).values(scopes=bindparam("left")))
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
        row["honey"] = int(record.honey)
        self._tx.run(_INSERT, **row, hash=key_hash, pepper_id=pepper_id)

    def revoke(self, key_id: str, now: int) -> None:
        """Mark the key and its child tokens revoked and void every cache that may hold them."""
        self._tx.run(_REVOKE, w=self._workspace_id, key=key_id, now=now)
        self._tx.run(_REVOKE_CHILDREN, w=self._workspace_id, key=key_id, now=now)
        self._tx.run(_BUMP)

    def quarantine(self, key_id: str, now: int, reason: str) -> None:
        """Put the key into quarantine, revoke its child tokens and void every cache that may hold them."""
        self._tx.run(_QUARANTINE, w=self._workspace_id, key=key_id, now=now, reason=reason)
        self._tx.run(_REVOKE_CHILDREN, w=self._workspace_id, key=key_id, now=now)
        self._tx.run(_BUMP)

    def release(self, key_id: str) -> None:
        """Take the key out of quarantine and void every cache of keys."""
        self._tx.run(_QUARANTINE, w=self._workspace_id, key=key_id, now=None, reason=None)
        self._tx.run(_BUMP)

    def narrow(self, key_id: str, scopes: Sequence[str]) -> None:
        """Set the scopes that are left to the key and void every cache that may hold it."""
        self._tx.run(_NARROW, w=self._workspace_id, key=key_id, left=json.dumps(list(scopes)))
        self._tx.run(_BUMP)

    def children(self, key_id: str) -> list[str]:
        """Return the ids of the key's child tokens that have not been purged, ended ones included."""
        return [row[0] for row in self._tx.all(_CHILD_IDS, w=self._workspace_id, key=key_id)]

    def living_children(self, key_id: str, now: int) -> int:
        """Return how many child tokens of a key live. Exact once the key has been found: that has locked it."""
        row = self._tx.one(_LIVING_CHILDREN, w=self._workspace_id, key=key_id, now=now)
        return int(row[0]) if row else 0

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


async def list_keys(
    reader: Reader, workspace_id: str, before: str | None, limit: int, *, parent: str | None = None
) -> list[ApiKeyRecord]:
    """Return the workspace's keys, newest first, those older than the key ``before`` if one is given.

    Without child tokens; with ``parent`` the child tokens of that key instead.
    """
    of_parent = api_keys.c.parent_id.is_(None) if parent is None else api_keys.c.parent_id == parent
    return await _listed(reader, [api_keys.c.workspace_id == workspace_id, of_parent], before, limit)


async def list_keys_of_every_workspace(reader: Reader, before: str | None, limit: int) -> list[ApiKeyRecord]:
    """As :func:`list_keys`, across workspaces. For the operator's command line alone."""
    return await _listed(reader, [api_keys.c.parent_id.is_(None)], before, limit)


async def find_by_hash(reader: Reader, hashes: Sequence[str]) -> FoundKey | None:
    """Return the key that has one of these hashes, whatever its workspace or state: that is how a caller is found."""
    return await _only(reader, _FOUND.where(api_keys.c.hash.in_(hashes)))


async def find_all_by_hash(reader: Reader, hashes: Sequence[str]) -> dict[str, ApiKeyRecord]:
    """Return the keys that have these hashes, whatever their workspace or state, each by its hash."""
    rows = await reader.all(select(api_keys.c.hash, *_COLUMNS).where(api_keys.c.hash.in_(hashes)))
    return {row[0]: _record(row[1:]) for row in rows}


async def find_by_id(reader: Reader, key_id: str) -> FoundKey | None:
    """Return the key of this id, whatever its workspace or state: that is how a credential is looked at again."""
    return await _only(reader, _FOUND.where(api_keys.c.id == key_id))


async def first_of_line(reader: Reader, workspace_id: str, key_id: str) -> str:
    """Return the key that a line of rotations began with in which this one stands; itself when it followed none."""
    line = [key_id]
    while True:
        mine = (api_keys.c.workspace_id == workspace_id, api_keys.c.id == line[-1])
        row = await reader.one(select(api_keys.c.made_by).where(*mine))
        # The key that another one followed is among its makers, so that no index is needed to find it.
        makers = [] if row is None else json.loads(row[0])
        followed = (api_keys.c.workspace_id == workspace_id, api_keys.c.successor_id == line[-1])
        before = await reader.one(select(api_keys.c.id).where(*followed, api_keys.c.id.in_(makers))) if makers else None
        if before is None or before[0] in line:
            return line[-1]
        line.append(before[0])


async def line_of(reader: Reader, workspace_id: str, key_id: str) -> frozenset[str]:
    """Return the line of rotations that a key stands in: the keys before it, itself, and those that followed."""
    line = [await first_of_line(reader, workspace_id, key_id)]
    while True:
        mine = (api_keys.c.workspace_id == workspace_id, api_keys.c.id == line[-1])
        row = await reader.one(select(api_keys.c.successor_id).where(*mine))
        if row is None or row[0] is None or row[0] in line:
            return frozenset({key_id, *line})
        line.append(row[0])


async def are_one_line(reader: Reader, workspace_id: str, one: str, other: str) -> bool:
    """Say whether two keys are one, or one of them took the other's place by rotation, directly or in a chain."""
    if one == other:
        return True
    first = await first_of_line(reader, workspace_id, one)
    return first == await first_of_line(reader, workspace_id, other)


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
    """Return the keys of every workspace that end between two times, and are neither revoked nor succeeded.

    Child tokens are left out: they are meant to end.
    """
    ends = api_keys.c.expires_at
    alive = (api_keys.c.revoked_at.is_(None), api_keys.c.successor_id.is_(None), api_keys.c.parent_id.is_(None))
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
    if row is None:
        return None
    size = len(_FIELDS)
    parent = None if row[size + 1] is None else _record(row[size + 1 :])
    return FoundKey(_record(row[:size]), tuple(json.loads(row[size])), parent)


def _record(row: Any) -> ApiKeyRecord:
    values = dict(zip(_FIELDS, row, strict=True))
    for name in _LISTS:
        values[name] = tuple(json.loads(values[name]))
    values["honey"] = bool(values["honey"])
    return ApiKeyRecord(**values)
