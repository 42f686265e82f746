"""Looking at chat sessions, for their owners and for whoever works on their turns."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, and_, cast, exists, func, or_, select

from relay.store.chat import (
    AWAITING,
    CALL,
    ENTRY,
    PENDING,
    RUNNING,
    SESSION,
    TURN,
    CallRow,
    EntryRow,
    SessionRow,
    TurnRow,
)
from relay.store.reader import Reader
from relay.store.tables import attempts, envelopes
from relay.store.tables.chat import chat_calls, chat_entries, chat_sessions, chat_turns, model_spending

ENTRY_PURPOSE: Final = "chat-entry"
ID_PURPOSE: Final = "chat-session"
IMAGE_PURPOSE: Final = "chat-image"
TEXT_PURPOSE: Final = "chat-text"

Bodied = tuple[EntryRow, bytes | None]
"""An entry and its envelope, None once that was erased."""

ENTRY_RECORD: Final[ColumnElement[str]] = chat_entries.c.session_id + "/" + cast(chat_entries.c.seq, Text)


def entry_record(session_id: str, seq: int) -> str:
    """Return the name under which what an entry says is sealed."""
    return f"{session_id}/{seq}"


def image_record(turn_id: str, number: int) -> str:
    """Return the name under which a picture is sealed that a turn began with."""
    return f"{turn_id}/{number}"


class ChatReading:
    """The chat of one workspace, as it stands."""

    def __init__(self, workspace_id: str, reader: Reader) -> None:
        self._workspace = workspace_id
        self._reader = reader

    async def session(self, session_id: str) -> SessionRow | None:
        """Return a session by the hash of its id, or None."""
        mine = chat_sessions.c.workspace_id == self._workspace
        row = await self._reader.one(select(*SESSION).where(chat_sessions.c.id == session_id, mine))
        return SessionRow(*row) if row else None

    async def page(
        self, owner_id: str, *, at: int, limit: int, before: tuple[int, str] | None
    ) -> list[tuple[SessionRow, bytes | None]]:
        """Return up to ``limit`` sessions of an owner that have not expired, newest first, with their sealed ids.

        ``before`` is creation and hash of the last one of the page before.
        """
        sealed = and_(envelopes.c.purpose == ID_PURPOSE, envelopes.c.record_id == chat_sessions.c.id)
        statement = (
            select(*SESSION, envelopes.c.body)
            .outerjoin(envelopes, sealed)
            .where(chat_sessions.c.workspace_id == self._workspace, chat_sessions.c.owner_id == owner_id)
            .where(chat_sessions.c.expires_at > at)
            .order_by(chat_sessions.c.created_at.desc(), chat_sessions.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            created, last = before
            earlier = and_(chat_sessions.c.created_at == created, chat_sessions.c.id < last)
            statement = statement.where(or_(chat_sessions.c.created_at < created, earlier))
        return [(SessionRow(*row[:-1]), row[-1]) for row in await self._reader.all(statement)]

    async def entries(
        self,
        session_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int,
        newest: bool = False,
        kinds: Collection[str] | None = None,
    ) -> list[Bodied]:
        """Return up to ``limit`` entries between two numbers, in order; with ``newest`` the last ones of them.

        ``kinds`` leaves those of some kinds.
        """
        statement = self._entries().where(chat_entries.c.session_id == session_id, chat_entries.c.seq > after)
        if before is not None:
            statement = statement.where(chat_entries.c.seq < before)
        if kinds is not None:
            statement = statement.where(chat_entries.c.kind.in_(sorted(kinds)))
        order = chat_entries.c.seq.desc() if newest else chat_entries.c.seq
        rows = await self._reader.all(statement.order_by(order).limit(limit))
        found = [(EntryRow(*row[:-1]), row[-1]) for row in rows]
        return found[::-1] if newest else found

    async def entries_of_turn(self, turn: TurnRow) -> list[Bodied]:
        """Return every entry of a turn, in order."""
        statement = self._entries().where(
            chat_entries.c.session_id == turn.session_id, chat_entries.c.turn_id == turn.id
        )
        rows = await self._reader.all(statement.order_by(chat_entries.c.seq))
        return [(EntryRow(*row[:-1]), row[-1]) for row in rows]

    def _entries(self) -> Any:
        sealed = and_(
            envelopes.c.purpose == ENTRY_PURPOSE,
            envelopes.c.workspace_id == chat_entries.c.workspace_id,
            envelopes.c.record_id == ENTRY_RECORD,
        )
        statement = select(*ENTRY, envelopes.c.body).outerjoin(envelopes, sealed)
        return statement.where(chat_entries.c.workspace_id == self._workspace)

    async def turn(self, turn_id: str) -> TurnRow | None:
        """Return a turn, or None."""
        mine = chat_turns.c.workspace_id == self._workspace
        row = await self._reader.one(select(*TURN).where(chat_turns.c.id == turn_id, mine))
        return TurnRow(*row) if row else None

    async def unfinished(self, session_id: str) -> list[TurnRow]:
        """Return the turns of a session that run or wait, oldest first."""
        mine = and_(chat_turns.c.workspace_id == self._workspace, chat_turns.c.session_id == session_id)
        statement = select(*TURN).where(mine, chat_turns.c.status.in_((RUNNING, AWAITING)))
        rows = await self._reader.all(statement.order_by(chat_turns.c.created_at, chat_turns.c.id))
        return [TurnRow(*row) for row in rows]

    async def running(self, session_id: str) -> TurnRow | None:
        """Return the turn of a session that runs, or None."""
        mine = chat_turns.c.workspace_id == self._workspace
        row = await self._reader.one(
            select(*TURN).where(chat_turns.c.session_id == session_id, mine, chat_turns.c.status == RUNNING)
        )
        return TurnRow(*row) if row else None

    async def awaiting(self, session_id: str) -> list[str]:
        """Return the turns of a session that wait, oldest first."""
        mine = and_(chat_turns.c.workspace_id == self._workspace, chat_turns.c.session_id == session_id)
        statement = select(chat_turns.c.id).where(mine, chat_turns.c.status == AWAITING)
        rows = await self._reader.all(statement.order_by(chat_turns.c.created_at, chat_turns.c.id))
        return [str(row[0]) for row in rows]

    async def last_turns(self, session_ids: Sequence[str]) -> dict[str, str]:
        """Return the status of the newest turn of each session that has one."""
        mine = chat_turns.c.workspace_id == self._workspace
        statement = (
            select(chat_turns.c.session_id, chat_turns.c.status)
            .where(chat_turns.c.session_id.in_(session_ids), mine)
            .order_by(chat_turns.c.created_at, chat_turns.c.id)
        )
        return {str(row[0]): str(row[1]) for row in await self._reader.all(statement)}

    async def calls(self, turn: TurnRow) -> list[CallRow]:
        """Return the calls of a turn in their order."""
        mine = chat_calls.c.workspace_id == self._workspace
        statement = (
            select(*CALL)
            .where(chat_calls.c.session_id == turn.session_id, chat_calls.c.turn_id == turn.id, mine)
            .order_by(chat_calls.c.created_at, chat_calls.c.id)
        )
        return [CallRow(*row) for row in await self._reader.all(statement)]

    async def call(self, session_id: str, call_id: str) -> CallRow | None:
        """Return a call of a session, or None."""
        mine = and_(chat_calls.c.workspace_id == self._workspace, chat_calls.c.session_id == session_id)
        row = await self._reader.one(select(*CALL).where(chat_calls.c.id == call_id, mine))
        return CallRow(*row) if row else None

    async def spent(self, session_ids: Sequence[str]) -> dict[str, int]:
        """Return what the models that sessions have asked have cost, in billionths of a US dollar."""
        mine = model_spending.c.workspace_id == self._workspace
        statement = (
            select(model_spending.c.scope, func.sum(model_spending.c.spent))
            .where(model_spending.c.scope.in_(session_ids), mine)
            .group_by(model_spending.c.scope)
        )
        return {str(row[0]): int(row[1]) for row in await self._reader.all(statement)}


async def turn_of_any_workspace(reader: Reader, turn_id: str) -> TurnRow | None:
    """Return a turn wherever it belongs; for whoever works on turns, or waits for one that it has begun."""
    row = await reader.one(select(*TURN).where(chat_turns.c.id == turn_id))
    return TurnRow(*row) if row else None


async def turn_of_call(reader: Reader, session_id: str, call_id: str) -> str | None:
    """Return the turn that a call belongs to, None when the session has no such call."""
    this = and_(chat_calls.c.id == call_id, chat_calls.c.session_id == session_id)
    row = await reader.one(select(chat_calls.c.turn_id).where(this))
    return str(row[0]) if row else None


async def turns_to_take(reader: Reader, moment: int, limit: int) -> list[str]:
    """Return running turns that nobody works on (any more); the longest left first."""
    left = or_(chat_turns.c.lease_until.is_(None), chat_turns.c.lease_until <= moment)
    statement = select(chat_turns.c.id).where(chat_turns.c.status == RUNNING, left)
    rows = await reader.all(statement.order_by(chat_turns.c.created_at).limit(limit))
    return [str(row[0]) for row in rows]


async def turns_with_news(reader: Reader, limit: int) -> list[str]:
    """Return turns with calls whose attempts do not wait any more for what the calls are said to wait for."""
    moved = or_(
        and_(chat_calls.c.status == PENDING, attempts.c.status != PENDING),
        and_(chat_calls.c.status == RUNNING, attempts.c.status.not_in(("ready", "running"))),
    )
    mine = attempts.c.id == chat_calls.c.attempt_id
    statement = select(chat_calls.c.turn_id).join(attempts, mine).where(moved).distinct().limit(limit)
    return [str(row[0]) for row in await reader.all(statement)]


async def turns_to_go_on(reader: Reader, limit: int) -> list[str]:
    """Return turns that wait, and have nothing to wait for any more, while no other turn of their session runs."""
    mine = and_(chat_calls.c.session_id == chat_turns.c.session_id, chat_calls.c.turn_id == chat_turns.c.id)
    waiting = exists().where(mine, chat_calls.c.status.in_((PENDING, RUNNING)))
    other = chat_turns.alias("other")
    busy = exists().where(other.c.session_id == chat_turns.c.session_id, other.c.status == RUNNING)
    statement = select(chat_turns.c.id).where(chat_turns.c.status == AWAITING, ~waiting, ~busy)
    rows = await reader.all(statement.order_by(chat_turns.c.created_at).limit(limit))
    return [str(row[0]) for row in rows]
