"""Chat sessions: their turns with leases and fences, their entries, and the actions that they have called."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from sqlalchemy import Table, and_, bindparam, func, insert, literal_column, select, update

from relay.store.query import Query
from relay.store.tables.chat import chat_calls, chat_entries, chat_sessions, chat_turns
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session. ``id`` is SHA-256 of the id that its owner holds; ``size`` counts the bytes of all that was kept.

    ``owner_id`` is the principal, of API keys the first one of a line of rotations. ``credential_id`` is with what the
    owner spoke in it last: it does not change while a turn runs, whose calls are that credential's.
    ``untrusted``: it holds content from outside. ``last_seq`` is the number of its newest entry.
    """

    id: str
    workspace_id: str
    owner_id: str
    credential_id: str
    created_at: int
    last_used_at: int
    expires_at: int
    last_seq: int = 0
    turns: int = 0
    size: int = 0
    untrusted: int = 0


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn. Whoever is its ``holder`` until ``lease_until`` works on it; a running one without is anybody's to take.

    ``fence`` grows with each claim. ``kind`` says who answers: a model, or the local planner.
    """

    id: str
    session_id: str
    workspace_id: str
    kind: str
    status: str
    request_id: str
    holder: str | None
    lease_until: int | None
    fence: int
    created_at: int
    expires_at: int
    finished_at: int | None = None
    cancel_requested_at: int | None = None
    error_code: str | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry of a session; what it says is an envelope beside it."""

    session_id: str
    seq: int
    workspace_id: str
    turn_id: str
    kind: str
    at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class CallRow:
    """An action that a turn has called. ``seq`` is the number of the newest entry about it.

    It runs, without an attempt, until it was performed; it waits while its attempt does.
    """

    id: str
    session_id: str
    workspace_id: str
    turn_id: str
    seq: int
    action: str
    status: str
    attempt_id: str | None
    approval_id: str | None
    created_at: int
    expires_at: int


def columns(table: Table, row: type) -> list[Any]:
    """Return the columns of a row's class, in its order."""
    return [table.c[field.name] for field in fields(row)]


def _values(row: Any) -> dict[str, Any]:
    return {field.name: value for field, value in zip(fields(row), astuple(row), strict=True)}


# In the statement's text: only then does SQLite see which index serves it.
RUNNING: Any = literal_column("'running'")
AWAITING: Any = literal_column("'awaiting_approval'")
PENDING: Any = literal_column("'pending_approval'")

SESSION = columns(chat_sessions, SessionRow)
TURN = columns(chat_turns, TurnRow)
ENTRY = columns(chat_entries, EntryRow)
CALL = columns(chat_calls, CallRow)

_THIS_SESSION = and_(chat_sessions.c.id == bindparam("session"), chat_sessions.c.workspace_id == bindparam("ws"))
_THIS_TURN = and_(chat_turns.c.id == bindparam("turn"), chat_turns.c.workspace_id == bindparam("ws"))
_THIS_CALL = and_(chat_calls.c.id == bindparam("call"), chat_calls.c.workspace_id == bindparam("ws"))
_HELD = and_(
    _THIS_TURN,
    chat_turns.c.status == RUNNING,
    chat_turns.c.fence == bindparam("held"),
    chat_turns.c.holder.is_not(None),
)

_INSERT_SESSION = Query(insert(chat_sessions))
_INSERT_TURN = Query(insert(chat_turns))
_INSERT_ENTRY = Query(insert(chat_entries))
_INSERT_CALL = Query(insert(chat_calls))
_KEPT = Query(
    select(func.count(), func.coalesce(func.sum(chat_sessions.c.size), 0)).where(
        chat_sessions.c.workspace_id == bindparam("w"),
        chat_sessions.c.owner_id == bindparam("who"),
        chat_sessions.c.expires_at > bindparam("at"),
    )
)
_LOCK_SESSION = Query(select(*SESSION).where(_THIS_SESSION).with_for_update())
_KEEP = Query(
    update(chat_sessions)
    .where(_THIS_SESSION)
    .values(
        credential_id=bindparam("credential"),
        last_used_at=bindparam("used"),
        expires_at=bindparam("until"),
        last_seq=bindparam("last"),
        turns=bindparam("count"),
        size=bindparam("bytes_kept"),
        untrusted=bindparam("outside"),
    )
)
_TURN = Query(select(*TURN).where(_THIS_TURN))
_TURNS_UNFINISHED = Query(
    select(*TURN)
    .where(
        chat_turns.c.session_id == bindparam("session"),
        chat_turns.c.workspace_id == bindparam("ws"),
        chat_turns.c.status.in_((RUNNING, AWAITING)),
    )
    .order_by(chat_turns.c.created_at, chat_turns.c.id)
)
_SET_TURN = Query(
    update(chat_turns)
    .where(_THIS_TURN)
    .values(
        status=bindparam("to_status"),
        holder=bindparam("by"),
        lease_until=bindparam("until"),
        fence=bindparam("to_fence"),
        finished_at=bindparam("finished"),
        cancel_requested_at=bindparam("cancel"),
        error_code=bindparam("code"),
        error_detail=bindparam("detail"),
    )
)
_PROLONG = Query(update(chat_turns).where(_HELD).values(lease_until=bindparam("until")))
_RELEASE = Query(update(chat_turns).where(_HELD).values(holder=None, lease_until=None))
_HOLDS = Query(select(chat_turns.c.id).where(_HELD).with_for_update())
_CALL = Query(select(*CALL).where(_THIS_CALL))
_CALLS_OF_TURN = Query(
    select(*CALL)
    .where(
        chat_calls.c.session_id == bindparam("session"),
        chat_calls.c.workspace_id == bindparam("ws"),
        chat_calls.c.turn_id == bindparam("turn"),
    )
    .order_by(chat_calls.c.created_at, chat_calls.c.id)
)
_SET_CALL = Query(
    update(chat_calls)
    .where(_THIS_CALL)
    .values(
        seq=bindparam("newest"),
        status=bindparam("to_status"),
        attempt_id=bindparam("attempt"),
        approval_id=bindparam("approval"),
    )
)
_VOID_LEASES = Query(
    update(chat_turns)
    .where(chat_turns.c.status == RUNNING, chat_turns.c.holder.is_not(None))
    .values(holder=None, lease_until=None)
)


class ChatRepository:
    """The chat of one workspace, as transactions see it. Whoever changes a session locks it first."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def kept(self, tx: Tx, owner_id: str, at: int) -> tuple[int, int]:
        """Return how many sessions of an owner there are that have not expired, and how many bytes they hold."""
        row = tx.one(_KEPT, w=self._workspace, who=owner_id, at=at)
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def insert_session(self, tx: Tx, session: SessionRow) -> None:
        """Add a session."""
        self._insert(tx, _INSERT_SESSION, [session])

    def insert_turn(self, tx: Tx, turn: TurnRow) -> None:
        """Add a turn to a locked session."""
        self._insert(tx, _INSERT_TURN, [turn])

    def insert_entries(self, tx: Tx, entries: Sequence[EntryRow]) -> None:
        """Add entries to a locked session."""
        self._insert(tx, _INSERT_ENTRY, entries)

    def insert_calls(self, tx: Tx, calls: Sequence[CallRow]) -> None:
        """Add calls to a locked session."""
        self._insert(tx, _INSERT_CALL, calls)

    def _insert(self, tx: Tx, query: Query, rows: Sequence[Any]) -> None:
        if any(row.workspace_id != self._workspace for row in rows):
            raise ValueError("this belongs to another workspace")
        if rows:
            tx.many(query, [_values(row) for row in rows])

    def lock(self, tx: Tx, session_id: str) -> SessionRow | None:
        """Return a session and keep it and all that is in it unchanged by others until the transaction ends."""
        row = tx.one(_LOCK_SESSION, session=session_id, ws=self._workspace)
        return SessionRow(*row) if row else None

    def keep(self, tx: Tx, session: SessionRow) -> None:
        """Store how a locked session stands."""
        tx.run(
            _KEEP,
            session=session.id,
            ws=self._workspace,
            credential=session.credential_id,
            used=session.last_used_at,
            until=session.expires_at,
            last=session.last_seq,
            count=session.turns,
            bytes_kept=session.size,
            outside=session.untrusted,
        )

    def turn(self, tx: Tx, turn_id: str) -> TurnRow | None:
        """Return a turn, or None."""
        row = tx.one(_TURN, turn=turn_id, ws=self._workspace)
        return TurnRow(*row) if row else None

    def unfinished(self, tx: Tx, session_id: str) -> list[TurnRow]:
        """Return the turns of a session that run or wait, oldest first."""
        return [TurnRow(*row) for row in tx.all(_TURNS_UNFINISHED, session=session_id, ws=self._workspace)]

    def set_turn(self, tx: Tx, turn: TurnRow) -> None:
        """Store how a turn of a locked session stands."""
        tx.run(
            _SET_TURN,
            turn=turn.id,
            ws=self._workspace,
            to_status=turn.status,
            by=turn.holder,
            until=turn.lease_until,
            to_fence=turn.fence,
            finished=turn.finished_at,
            cancel=turn.cancel_requested_at,
            code=turn.error_code,
            detail=turn.error_detail,
        )

    def prolong(self, tx: Tx, turn_id: str, *, fence: int, until: int) -> bool:
        """Prolong the lease that was taken with ``fence``; False when that is over."""
        return tx.run(_PROLONG, turn=turn_id, ws=self._workspace, held=fence, until=until) == 1

    def release(self, tx: Tx, turn_id: str, *, fence: int) -> bool:
        """Give the lease back that was taken with ``fence``; False when that is over."""
        return tx.run(_RELEASE, turn=turn_id, ws=self._workspace, held=fence) == 1

    def holds(self, tx: Tx, turn_id: str, *, fence: int) -> bool:
        """Say whether whoever claimed the turn with ``fence`` still holds it, and keep it so until the commit."""
        return tx.one(_HOLDS, turn=turn_id, ws=self._workspace, held=fence) is not None

    def call(self, tx: Tx, call_id: str) -> CallRow | None:
        """Return a call, or None."""
        row = tx.one(_CALL, call=call_id, ws=self._workspace)
        return CallRow(*row) if row else None

    def calls(self, tx: Tx, turn: TurnRow) -> list[CallRow]:
        """Return the calls of a turn in their order."""
        rows = tx.all(_CALLS_OF_TURN, session=turn.session_id, turn=turn.id, ws=self._workspace)
        return [CallRow(*row) for row in rows]

    def set_call(self, tx: Tx, call: CallRow) -> None:
        """Store how a call of a locked session stands."""
        tx.run(
            _SET_CALL,
            call=call.id,
            ws=self._workspace,
            newest=call.seq,
            to_status=call.status,
            attempt=call.attempt_id,
            approval=call.approval_id,
        )


def void_leases(tx: Tx) -> int:
    """Take back every lease and return how many; right only where no other process can be working."""
    return tx.run(_VOID_LEASES)
