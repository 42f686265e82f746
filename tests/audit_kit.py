"""What the audit tests share: an open, recording database, and the hands of somebody who owns it."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from relay.audit.chain import COLUMNS
from relay.audit.heads import HeadKeeper, head_signer
from relay.audit.record import Recorder, event
from relay.audit.trust import HeadKeys
from relay.core.event import EventDraft
from relay.crypto.envelope import Envelopes
from relay.crypto.signing import HeadSigner
from relay.store.database import Database
from relay.store.target import Target
from relay.store.writer import Tx

KEK = bytes(range(32))
SECRET = bytes(range(32, 64))


@dataclass(frozen=True)
class Kit:
    target: Target
    database: Database
    envelopes: Envelopes
    signer: HeadSigner
    heads: HeadKeeper

    async def record(self, *drafts: EventDraft) -> None:
        await self.database.writer.run(lambda tx: recorded(tx, drafts))


def recorded(tx: Tx, drafts: Iterable[EventDraft]) -> None:
    for draft in drafts:
        tx.record(draft)


@asynccontextmanager
async def open_kit(target: Target) -> AsyncIterator[Kit]:
    envelopes = Envelopes.of(KEK)
    database = Database(target, Recorder(envelopes).finish)
    await database.start()
    signer = head_signer(SECRET, "ins_test")
    try:
        yield Kit(target, database, envelopes, signer, HeadKeeper(database, HeadKeys(signer)))
    finally:
        await database.stop()


def sample(number: int = 0, *, workspace_id: str = "default", **fields: Any) -> EventDraft:
    given = {"tag": "gate:action:intent", "principal": f"key_{number}", "request_id": f"req_{number}", **fields}
    return event(workspace_id=workspace_id, **given)


def own(target: Target, *statements: str | tuple[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Do to the database what its owner can; returns the rows of the last statement. Marks are ``?``."""
    pairs = [(each, ()) if isinstance(each, str) else each for each in statements]
    rows: list[tuple[Any, ...]] = []
    if target.kind == "sqlite":
        assert target.path is not None
        with contextlib.closing(sqlite3.connect(target.path, timeout=5)) as connection, connection:
            for text, values in pairs:
                rows = connection.execute(text, values).fetchall()
        return rows
    with psycopg.connect(target.conninfo) as session:
        for text, values in pairs:
            cursor = session.execute(text.replace("?", "%s"), values)
            rows = cursor.fetchall() if cursor.description else []
    return rows


def all_rows(target: Target) -> list[tuple[Any, ...]]:
    return own(target, f"SELECT {', '.join(COLUMNS)} FROM audit_events ORDER BY seq")


def replace_rows(target: Target, rows: Sequence[Sequence[Any]], head: tuple[int, str] | None = None) -> None:
    """Put these rows in place of all there are, and the head row with them when one is given."""
    marks = ", ".join("?" for _ in COLUMNS)
    insert = f"INSERT INTO audit_events ({', '.join(COLUMNS)}) VALUES ({marks})"
    move: list[Any] = [] if head is None else [("UPDATE audit_head SET size = ?, hash = ?", head)]
    own(target, "DELETE FROM audit_events", *((insert, tuple(row)) for row in rows), *move)
