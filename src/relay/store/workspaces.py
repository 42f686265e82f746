"""Workspaces: an id, which is their name, and the networks that their keys may be used from."""

import json
import re
from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, exists, insert, literal, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import workspaces
from relay.store.writer import Tx

_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

_ADD: Final = Query(
    insert(workspaces).from_select(
        ["id", "created_at", "allowed_networks"],
        select(
            bindparam("id", type_=workspaces.c.id.type),
            bindparam("now", type_=workspaces.c.created_at.type),
            bindparam("networks", type_=workspaces.c.allowed_networks.type),
        ).where(~exists(select(literal(1)).where(workspaces.c.id == bindparam("id")).correlate(None))),
    )
)
_NETWORKS: Final = Query(
    select(workspaces.c.allowed_networks).where(workspaces.c.id == bindparam("id")).with_for_update()
)
_SET_NETWORKS: Final = Query(
    update(workspaces).where(workspaces.c.id == bindparam("which")).values(allowed_networks=bindparam("networks"))
)


def is_workspace_id(text: str) -> bool:
    """Say whether ``text`` can name a workspace: 1 to 63 of ``a-z 0-9 -``, the first no hyphen."""
    return _ID.fullmatch(text) is not None


def ensure_workspace(tx: Tx, workspace_id: str, now: int) -> bool:
    """Make the workspace unless it is there; return whether it was made. ValueError for what is no id.

    Two processes that make the same one at once: one of the units runs again and finds it.
    """
    if not is_workspace_id(workspace_id):
        raise ValueError("the id of a workspace has 1 to 63 lower-case letters, digits and hyphens, no hyphen first")
    return tx.run(_ADD, id=workspace_id, now=now, networks="[]") == 1


async def allowed_networks(reader: Reader, workspace_id: str) -> tuple[str, ...] | None:
    """Return the networks that the workspace's keys may be used from, none for any; None without such a workspace."""
    row = await reader.one(select(workspaces.c.allowed_networks).where(workspaces.c.id == workspace_id))
    return None if row is None else tuple(json.loads(row[0]))


def locked_networks(tx: Tx, workspace_id: str) -> tuple[str, ...] | None:
    """As :func:`allowed_networks`, the row locked until the transaction ends."""
    row = tx.one(_NETWORKS, id=workspace_id)
    return None if row is None else tuple(json.loads(row[0]))


def set_networks(tx: Tx, workspace_id: str, networks: Sequence[str]) -> None:
    """Replace the networks; :func:`relay.store.api_keys.void_caches` belongs into the same unit."""
    tx.run(_SET_NETWORKS, which=workspace_id, networks=json.dumps(list(networks)))
