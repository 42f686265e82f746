"""Policy versions as rows: appended, never changed; a head names the one that holds."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import and_, bindparam, insert, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import generations, workspaces
from relay.store.tables.policy import policy_heads, policy_replays, policy_versions
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of a workspace's policies. ``digest`` is SHA-256 of the text, ``created_at`` in microseconds."""

    version: int
    text: str
    digest: str
    comment: str
    author: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Head:
    """Which version holds, 0 for the built-in default, and the highest that was ever made."""

    active: int
    latest: int


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """That a text was replayed, by whom, over how many days, and how many decisions it would turn."""

    digest: str
    principal_id: str
    finished_at: int
    days: int
    replayed: int
    flips: int
    expires_at: int


_FIELDS: Final = tuple(VersionRow.__dataclass_fields__)
_COLUMNS: Final = tuple(policy_versions.c[name] for name in _FIELDS)

# Whoever changes a workspace's policies holds its row until the transaction ends, so that numbers have no gap.
_LOCK: Final = Query(select(workspaces.c.id).where(workspaces.c.id == bindparam("w")).with_for_update())
_HEAD: Final = Query(
    select(policy_heads.c.active, policy_heads.c.latest).where(policy_heads.c.workspace_id == bindparam("w"))
)
_ADD_HEAD: Final = Query(insert(policy_heads))
_MOVE_HEAD: Final = Query(
    update(policy_heads)
    .where(policy_heads.c.workspace_id == bindparam("w"))
    .values(
        active=bindparam("to_active"),
        latest=bindparam("to_latest"),
        changed_by=bindparam("by"),
        changed_at=bindparam("at"),
    )
)
_ADD: Final = Query(insert(policy_versions))
_BUMP: Final = Query(update(generations).where(generations.c.name == "policies").values(value=generations.c.value + 1))
_REPLAYED: Final = Query(
    select(policy_replays.c.finished_at).where(
        policy_replays.c.workspace_id == bindparam("w"),
        policy_replays.c.digest == bindparam("d"),
        policy_replays.c.expires_at > bindparam("at"),
    )
)
_ADD_REPLAY: Final = Query(insert(policy_replays))
_RENEW_REPLAY: Final = Query(
    update(policy_replays)
    .where(policy_replays.c.workspace_id == bindparam("w"), policy_replays.c.digest == bindparam("d"))
    .values(
        principal_id=bindparam("by"),
        finished_at=bindparam("at"),
        days=bindparam("over"),
        replayed=bindparam("looked_at"),
        flips=bindparam("turned"),
        expires_at=bindparam("ends"),
    )
)


class PolicyRepository:
    """The policies of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def lock(self, tx: Tx) -> Head | None:
        """Return the head; no other transaction changes it until this one ends. None without such a workspace."""
        if tx.one(_LOCK, w=self._workspace) is None:
            return None
        row = tx.one(_HEAD, w=self._workspace)
        return Head(*row) if row else Head(0, 0)

    def add(self, tx: Tx, row: VersionRow) -> None:
        """Append a version; the head must be locked, and :meth:`move` follow."""
        tx.run(_ADD, workspace_id=self._workspace, **{name: getattr(row, name) for name in _FIELDS})

    def move(self, tx: Tx, head: Head, *, by: str, at: int) -> None:
        """Set the head, which must be locked, and void every cache of policies once this is committed."""
        if tx.run(_MOVE_HEAD, w=self._workspace, to_active=head.active, to_latest=head.latest, by=by, at=at) == 0:
            tx.run(
                _ADD_HEAD,
                workspace_id=self._workspace,
                active=head.active,
                latest=head.latest,
                changed_by=by,
                changed_at=at,
            )
        tx.run(_BUMP)

    def replayed(self, tx: Tx, digest: str, at: int) -> bool:
        """Say whether a replay of exactly this text counts at that time."""
        return tx.one(_REPLAYED, w=self._workspace, d=digest, at=at) is not None

    def note_replay(self, tx: Tx, row: ReplayRow) -> None:
        """Remember a replay, in place of an earlier one of the same text."""
        renewed = tx.run(
            _RENEW_REPLAY,
            w=self._workspace,
            d=row.digest,
            by=row.principal_id,
            at=row.finished_at,
            over=row.days,
            looked_at=row.replayed,
            turned=row.flips,
            ends=row.expires_at,
        )
        if renewed == 0:
            values = {name: getattr(row, name) for name in ReplayRow.__dataclass_fields__}
            tx.run(_ADD_REPLAY, workspace_id=self._workspace, **values)

    async def active(self, reader: Reader) -> tuple[Head, VersionRow | None]:
        """Return the head and the version that it names; None for 0, and for one that is not there."""
        held = and_(
            policy_versions.c.workspace_id == policy_heads.c.workspace_id,
            policy_versions.c.version == policy_heads.c.active,
        )
        row = await reader.one(
            select(policy_heads.c.active, policy_heads.c.latest, *_COLUMNS)
            .join_from(policy_heads, policy_versions, held, isouter=True)
            .where(policy_heads.c.workspace_id == self._workspace)
        )
        if row is None:
            return Head(0, 0), None
        return Head(row[0], row[1]), _version(row[2:])

    async def get(self, reader: Reader, version: int) -> VersionRow | None:
        """Return a version, or None."""
        row = await reader.one(
            select(*_COLUMNS).where(
                policy_versions.c.workspace_id == self._workspace, policy_versions.c.version == version
            )
        )
        return _version(row) if row else None

    async def page(self, reader: Reader, before: int | None, limit: int) -> list[VersionRow]:
        """Return versions, newest first, those below ``before`` if it is given."""
        statement = select(*_COLUMNS).where(policy_versions.c.workspace_id == self._workspace)
        if before is not None:
            statement = statement.where(policy_versions.c.version < before)
        rows = await reader.all(statement.order_by(policy_versions.c.version.desc()).limit(limit))
        return [VersionRow(*row) for row in rows]


async def workspaces_with_policies(reader: Reader) -> list[str]:
    """Return the workspaces in which a version of their own holds. For the operator's command line alone."""
    statement = select(policy_heads.c.workspace_id).where(policy_heads.c.active > 0)
    return [row[0] for row in await reader.all(statement.order_by(policy_heads.c.workspace_id))]


def _version(row: Any) -> VersionRow | None:
    return VersionRow(*row) if row[0] is not None else None
