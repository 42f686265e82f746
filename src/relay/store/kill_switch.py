"""What is stopped: rows of the kill switch, and the lock that orders it against what starts."""

from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from pydantic_core import from_json
from sqlalchemy import bindparam, delete, insert, or_, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import api_keys, generations, workspaces
from relay.store.tables.budgets import kill_switch
from relay.store.writer import StoreUnavailable, Tx

StopKind = Literal["everything", "workspace", "key", "action", "connector"]
Authority = Literal["operator", "workspace"]

EVERYWHERE: Final = ""
"""The workspace of a stop that holds in every one."""


@dataclass(frozen=True, slots=True)
class Stop:
    """One thing that is stopped. ``subject`` is its id, empty where that is everything.

    ``workspace_id`` is :data:`EVERYWHERE` where it is stopped in every workspace. Only its ``authority`` may lift it.
    """

    workspace_id: str
    kind: StopKind
    subject: str
    authority: Authority
    reason: str
    switched_by: str
    since: int


_COLUMNS: Final = [kill_switch.c[field.name] for field in fields(Stop)]
_THIS: Final = (
    kill_switch.c.workspace_id == bindparam("w"),
    kill_switch.c.kind == bindparam("what"),
    kill_switch.c.subject == bindparam("which"),
    kill_switch.c.authority == bindparam("whose"),
)

# Many starts share this lock; whoever turns the switch waits for those under way, and those after it see the new rows.
_SHARE: Final = Query(select(generations.c.value).where(generations.c.name == "kill_switch").with_for_update(read=True))
_BUMP: Final = Query(
    update(generations).where(generations.c.name == "kill_switch").values(value=generations.c.value + 1)
)
_HERE: Final = Query(
    select(*_COLUMNS).where(or_(kill_switch.c.workspace_id == EVERYWHERE, kill_switch.c.workspace_id == bindparam("w")))
)
_FIND: Final = Query(select(*_COLUMNS).where(*_THIS))
_ADD: Final = Query(insert(kill_switch))
_REMOVE: Final = Query(delete(kill_switch).where(*_THIS))
_HAS_WORKSPACE: Final = Query(select(workspaces.c.id).where(workspaces.c.id == bindparam("w")))
_HAS_KEY: Final = Query(
    select(api_keys.c.id).where(api_keys.c.workspace_id == bindparam("w"), api_keys.c.id == bindparam("key"))
)


def begin_start(tx: Tx) -> None:
    """Order what is about to start against the switch: from here to the commit nobody can turn it.

    :class:`StoreUnavailable` when the row that is the lock is gone; then nothing may start.
    """
    if tx.one(_SHARE) is None:
        raise StoreUnavailable("the row that guards the kill switch is gone")


def begin_turn(tx: Tx) -> None:
    """Wait for what is starting, hold back what comes after until the commit, and void every cache. Writes."""
    if tx.run(_BUMP) != 1:
        raise StoreUnavailable("the row that guards the kill switch is gone")


def stops_here(tx: Tx, workspace_id: str) -> list[Stop]:
    """Return what is stopped in a workspace, or everywhere."""
    return [Stop(*row) for row in tx.all(_HERE, w=workspace_id)]


def find_stop(tx: Tx, workspace_id: str, kind: str, subject: str, authority: Authority) -> Stop | None:
    """Return the row of that name, or None."""
    row = tx.one(_FIND, w=workspace_id, what=kind, which=subject, whose=authority)
    return Stop(*row) if row else None


def add_stop(tx: Tx, stop: Stop) -> None:
    """Stop something."""
    tx.run(_ADD, **{field.name: getattr(stop, field.name) for field in fields(stop)})


def remove_stop(tx: Tx, stop: Stop) -> bool:
    """Lift a stop; return whether it was there."""
    return tx.run(_REMOVE, w=stop.workspace_id, what=stop.kind, which=stop.subject, whose=stop.authority) == 1


def has_workspace(tx: Tx, workspace_id: str) -> bool:
    """Say whether there is such a workspace."""
    return tx.one(_HAS_WORKSPACE, w=workspace_id) is not None


def has_key(tx: Tx, workspace_id: str, key_id: str) -> bool:
    """Say whether the workspace has such a key, ended or not."""
    return tx.one(_HAS_KEY, w=workspace_id, key=key_id) is not None


async def read_stops(reader: Reader, workspace_id: str) -> list[Stop]:
    """As :func:`stops_here`, by a read session."""
    here = select(*_COLUMNS).where(kill_switch.c.workspace_id.in_([EVERYWHERE, workspace_id]))
    return _stops(await reader.all(_in_order(here)))


async def read_all_stops(reader: Reader) -> list[Stop]:
    """Return what is stopped, in whatever workspace."""
    return _stops(await reader.all(_in_order(select(*_COLUMNS))))


def _in_order(statement: Any) -> Any:
    return statement.order_by(*kill_switch.primary_key.columns)


def _stops(rows: Any) -> list[Stop]:
    return [Stop(*row) for row in rows]


async def descendants(reader: Reader, workspace_id: str, key_id: str) -> list[str]:
    """Return the key and every key of its workspace that it made, directly or in a chain, ended ones included."""
    rows = await reader.all(
        select(api_keys.c.id, api_keys.c.made_by).where(
            api_keys.c.workspace_id == workspace_id, api_keys.c.made_by.contains(key_id, autoescape=True)
        )
    )
    return [key_id, *(row.id for row in rows if key_id in from_json(row.made_by))]


async def workspace_ids(reader: Reader, after: str, limit: int) -> list[str]:
    """Return up to ``limit`` workspaces whose ids follow ``after``, in order."""
    rows = await reader.all(
        select(workspaces.c.id).where(workspaces.c.id > after).order_by(workspaces.c.id).limit(limit)
    )
    return [row.id for row in rows]
