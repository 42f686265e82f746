"""Workspaces: they have no content of their own, only an id, which is their name."""

import re
from typing import Final

from sqlalchemy import bindparam, exists, insert, literal, select

from relay.store.query import Query
from relay.store.tables import workspaces
from relay.store.writer import Tx

_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

_ADD: Final = Query(
    insert(workspaces).from_select(
        ["id", "created_at"],
        select(bindparam("id", type_=workspaces.c.id.type), bindparam("now", type_=workspaces.c.created_at.type)).where(
            ~exists(select(literal(1)).where(workspaces.c.id == bindparam("id")).correlate(None))
        ),
    )
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
    return tx.run(_ADD, id=workspace_id, now=now) == 1
