"""Removing chat sessions with everything in them: by their owners' wish, and once they have expired."""

from typing import Final

from sqlalchemy import BindParameter, and_, bindparam, delete, literal, select

from relay.store.chat_reading import ENTRY_PURPOSE, ENTRY_RECORD, ID_PURPOSE, IMAGE_PURPOSE, TEXT_PURPOSE
from relay.store.query import Query
from relay.store.tables import envelopes
from relay.store.tables.chat import chat_calls, chat_entries, chat_sessions, chat_turns
from relay.store.writer import Tx

MAX_IMAGES: Final = 5
"""How many pictures a turn may begin with."""

_SESSION: Final[BindParameter[str]] = bindparam("session")
_RECORDS: Final = select(ENTRY_RECORD).where(chat_entries.c.session_id == _SESSION)


def _sealed(purpose: str, records: object) -> Query:
    return Query(delete(envelopes).where(and_(envelopes.c.purpose == purpose, envelopes.c.record_id.in_(records))))  # type: ignore[arg-type]


_STATEMENTS: Final = (
    _sealed(ID_PURPOSE, select(chat_sessions.c.id).where(chat_sessions.c.id == _SESSION)),
    _sealed(TEXT_PURPOSE, select(chat_turns.c.id).where(chat_turns.c.session_id == _SESSION)),
    *(
        _sealed(
            IMAGE_PURPOSE,
            select(chat_turns.c.id + literal(f"/{number}")).where(chat_turns.c.session_id == _SESSION),
        )
        for number in range(MAX_IMAGES)
    ),
    _sealed(ENTRY_PURPOSE, _RECORDS),
    Query(delete(chat_entries).where(chat_entries.c.session_id == _SESSION)),
    Query(delete(chat_calls).where(chat_calls.c.session_id == _SESSION)),
    Query(delete(chat_turns).where(chat_turns.c.session_id == _SESSION)),
    Query(delete(chat_sessions).where(chat_sessions.c.id == _SESSION)),
)
_EXPIRED: Final = Query(
    select(chat_sessions.c.id)
    .where(chat_sessions.c.expires_at < bindparam("at"))
    .order_by(chat_sessions.c.expires_at)
    .limit(bindparam("most"))
)
_LOCK: Final = Query(
    select(chat_sessions.c.id)
    .where(chat_sessions.c.id == _SESSION, chat_sessions.c.expires_at < bindparam("at"))
    .with_for_update()
)


def remove_session(tx: Tx, session_id: str) -> None:
    """Delete a locked session, by its hash: turns, calls, entries, and every envelope of theirs."""
    for statement in _STATEMENTS:
        tx.run(statement, session=session_id)


def remove_expired_sessions(tx: Tx, at: int, limit: int) -> int:
    """Delete up to ``limit`` sessions that had expired at that time; return how many went."""
    found = [str(row[0]) for row in tx.all(_EXPIRED, at=at, most=limit)]
    for session_id in found:
        if tx.one(_LOCK, session=session_id, at=at) is not None:
            remove_session(tx, session_id)
    return len(found)
