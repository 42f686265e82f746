"""The transitions of turns, each one transaction: rows, sealed entries and, at an end, the audit row.

Every transition locks the session first, so that two processes take turns, and looks before it writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

from relay.audit.record import event
from relay.chat.counts import ChatCounts
from relay.chat.entries import Body, CallEntry, Entry, NoteEntry, TurnEntry, kind_of, pack
from relay.chat.views import TurnStatus
from relay.core.clock import MICROSECONDS, now
from relay.core.storable import storable
from relay.runs.changes import Changes
from relay.runs.journal import LeaseLost
from relay.store.chat import CallRow, ChatRepository, EntryRow, SessionRow, TurnRow, void_leases
from relay.store.chat_reading import ENTRY_PURPOSE, TEXT_PURPOSE, entry_record, turn_of_any_workspace
from relay.store.database import Database
from relay.store.envelopes import EnvelopeRepository
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.telemetry.metrics import Metrics

T = TypeVar("T")
LEASE_SECONDS: Final = 15
FINISHED: Final[frozenset[str]] = frozenset({"done", "failed", "cancelled"})
_ERROR_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Claim:
    """A turn that this process works on, and its session, as they were when it was claimed; the turn has the fence."""

    session: SessionRow
    turn: TurnRow


@dataclass(frozen=True, slots=True)
class End:
    """How a turn ends: a status, an error for one that failed, and what Relay has to say about it.

    ``retry_after``: in how many seconds it may help to say it again.
    """

    status: TurnStatus
    error: tuple[str, str] | None = None
    note: NoteEntry | None = None
    retry_after: int | None = None


class Pen:
    """Writes entries into one locked session, within one transaction, and in the end how the session stands."""

    def __init__(self, tx: Tx, vault: Vault, session: SessionRow, retention: int, counts: ChatCounts) -> None:
        self.rows: Final = ChatRepository(session.workspace_id)
        self.session = session
        self.entries: list[Entry] = []
        self._tx = tx
        self._vault = vault
        self._retention = retention
        self._counts = counts
        self._at = now()

    def write(self, turn_id: str, body: Body) -> int:
        """Add an entry and return its number."""
        session, seq, plaintext = self.session, self.session.last_seq + 1, pack(body)
        expires_at = self._at + self._retention
        kind = kind_of(body)
        row = EntryRow(session.id, seq, session.workspace_id, turn_id, kind, self._at, expires_at)
        self.rows.insert_entries(self._tx, [row])
        sealed = self._vault.seal(
            plaintext,
            workspace=session.workspace_id,
            purpose=ENTRY_PURPOSE,
            record_id=entry_record(session.id, seq),
            expires_at=expires_at,
        )
        Vault.put(self._tx, sealed)
        self.session = replace(session, last_seq=seq, size=session.size + len(plaintext))
        self.entries.append(Entry(seq, turn_id, kind, self._at, body))
        return seq

    def write_call(self, row: CallRow, body: CallEntry, *, new: bool = False) -> CallRow:
        """Add an entry about a call and have its row say the same."""
        seq = self.write(row.turn_id, body)
        self._counts.called(self._tx, row, body.status)
        row = replace(row, seq=seq, status=body.status, attempt_id=body.attempt_id, approval_id=body.approval_id)
        if new:
            self.rows.insert_calls(self._tx, [row])
        else:
            self.rows.set_call(self._tx, row)
        if body.untrusted:
            self.session = replace(self.session, untrusted=1)
        return row

    def new_call(self, turn_id: str, body: CallEntry) -> CallRow:
        """Add a call with its first entry."""
        session = self.session
        row = CallRow(
            body.id,
            session.id,
            session.workspace_id,
            turn_id,
            0,
            body.action,
            body.status,
            None,
            None,
            self._at,
            self._at + self._retention,
        )
        return self.write_call(row, body, new=True)

    def keep(self) -> list[Entry]:
        """Store how the session stands; return what was added."""
        self.rows.keep(self._tx, self.session)
        return self.entries


class Journal:
    """Writes the transitions of turns. ``lease_seconds`` is how long a silent process keeps its turn.

    ``retention`` is how long what is said is kept, in microseconds.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        changes: Changes,
        *,
        retention: int,
        lease_seconds: float = LEASE_SECONDS,
        counts: ChatCounts | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._changes = changes
        self.counts: Final = counts or ChatCounts(Metrics.off())
        self.retention: Final = retention
        self.lease_seconds: Final = lease_seconds

    def pen(self, tx: Tx, session: SessionRow) -> Pen:
        """Return what writes into a locked session."""
        return Pen(tx, self._vault, session, self.retention, self.counts)

    def lease_end(self) -> int:
        """Return until when a lease lasts that is taken now."""
        return now() + round(self.lease_seconds * MICROSECONDS)

    async def claim(self, turn_id: str, holder: str) -> Claim | None:
        """Take a turn that nobody works on (any more), or that has waited for what has ended now.

        None when there is nothing to do, and while another turn of the session runs. The fence rises and so shuts out
        whoever held an earlier lease.
        """
        found = await turn_of_any_workspace(self._database.reader, turn_id)
        if found is None:
            return None
        rows = ChatRepository(found.workspace_id)

        def unit(tx: Tx) -> Claim | None:
            session = rows.lock(tx, found.session_id)
            turn = rows.turn(tx, turn_id)
            if session is None or turn is None or not self._may_claim(tx, rows, turn):
                return None
            waited = turn.status == "awaiting_approval"
            turn = replace(turn, status="running", holder=holder, lease_until=self.lease_end(), fence=turn.fence + 1)
            rows.set_turn(tx, turn)
            tx.after_commit.append(partial(self.counts.resumed, "decision" if waited else "takeover"))
            if waited:
                pen = self.pen(tx, session)
                pen.write(turn.id, TurnEntry("running"))
                pen.keep()
                session = pen.session
            return Claim(session, turn)

        return await self.write(unit, found.session_id)

    @staticmethod
    def _may_claim(tx: Tx, rows: ChatRepository, turn: TurnRow) -> bool:
        if turn.status == "running":
            return turn.holder is None or (turn.lease_until or 0) <= now()
        if turn.status != "awaiting_approval" or any(call.status in _WAITS for call in rows.calls(tx, turn)):
            return False
        return all(other.status != "running" for other in rows.unfinished(tx, turn.session_id))

    async def renew(self, claim: Claim) -> bool | None:
        """Prolong the lease; False when it is lost, None when somebody has asked to end the turn."""
        rows, turn = ChatRepository(claim.turn.workspace_id), claim.turn

        def unit(tx: Tx) -> bool | None:
            if not rows.prolong(tx, turn.id, fence=turn.fence, until=self.lease_end()):
                return False
            found = rows.turn(tx, turn.id)
            return None if found is not None and found.cancel_requested_at is not None else True

        return await self._database.writer.run(unit, outcome=True)

    async def release(self, claim: Claim) -> None:
        """Give the turn back as it is, for whoever sweeps next."""
        rows, turn = ChatRepository(claim.turn.workspace_id), claim.turn
        await self.write(lambda tx: rows.release(tx, turn.id, fence=turn.fence), turn.session_id)

    async def answered(
        self, claim: Claim, bodies: Sequence[Body], calls: Sequence[CallEntry], end: End | None
    ) -> list[Entry]:
        """Record an answer with the calls that it asks for, before any of them is performed, or with the turn's end.

        Nothing when it has been recorded before. :class:`~relay.runs.journal.LeaseLost` when this is not the holder's
        to do any more.
        """

        def unit(tx: Tx) -> list[Entry]:
            session, turn = self.held(tx, claim)
            pen = self.pen(tx, session)
            if calls and pen.rows.call(tx, calls[0].id) is not None:
                return []
            for body in bodies:
                pen.write(turn.id, body)
            for call in calls:
                pen.new_call(turn.id, call)
            self._forget_text(tx, turn)
            if end is not None:
                self.end(tx, pen.session, turn, end)
                return pen.entries
            return pen.keep()

        return await self.write(unit, claim.session.id)

    async def called(self, claim: Claim, call: CallEntry) -> list[Entry]:
        """Record what a call has come to; nothing when it has been recorded before. LeaseLost as above."""

        def unit(tx: Tx) -> list[Entry]:
            session, _ = self.held(tx, claim)
            pen = self.pen(tx, session)
            row = pen.rows.call(tx, call.id)
            if row is None or row.status != "running" or row.attempt_id is not None:
                return []
            pen.write_call(row, call)
            return pen.keep()

        return await self.write(unit, claim.session.id)

    async def moved(self, row: CallRow, call: CallEntry) -> list[Entry]:
        """Record what has become of a call that has waited; nothing when somebody else has done so, or it changed."""
        rows = ChatRepository(row.workspace_id)

        def unit(tx: Tx) -> list[Entry]:
            session = rows.lock(tx, row.session_id)
            found = rows.call(tx, row.id)
            if session is None or found is None or found != row:
                return []
            pen = self.pen(tx, session)
            pen.write_call(row, call)
            return pen.keep()

        return await self.write(unit, row.session_id)

    async def park(self, claim: Claim, note: NoteEntry) -> bool:
        """Let the turn wait for its calls; False, and nothing written, when none of them waits (any more).

        LeaseLost as above.
        """

        def unit(tx: Tx) -> bool:
            session, turn = self.held(tx, claim)
            pen = self.pen(tx, session)
            if all(call.status not in _WAITS for call in pen.rows.calls(tx, turn)):
                return False
            pen.rows.set_turn(tx, replace(turn, status="awaiting_approval", holder=None, lease_until=None))
            pen.write(turn.id, note)
            pen.write(turn.id, TurnEntry("awaiting_approval"))
            pen.keep()
            return True

        return await self.write(unit, claim.session.id)

    async def finish(self, claim: Claim, end: End) -> None:
        """End the turn. LeaseLost as above."""

        def unit(tx: Tx) -> None:
            session, turn = self.held(tx, claim)
            self.end(tx, session, turn, end)

        await self.write(unit, claim.session.id)

    def end(self, tx: Tx, session: SessionRow, turn: TurnRow, end: End) -> SessionRow:
        """End a turn of a locked session, within a transaction; return how the session stands."""
        pen = self.pen(tx, session)
        code, detail = end.error or (None, None)
        error = None if code is None else (storable(code), storable(detail or "")[:_ERROR_CHARS])
        pen.rows.set_turn(
            tx,
            replace(
                turn,
                status=end.status,
                holder=None,
                lease_until=None,
                finished_at=now(),
                error_code=error and error[0],
                error_detail=error and error[1],
            ),
        )
        for call in pen.rows.calls(tx, turn):
            # What was not performed is not left to look as if it might be.
            if call.status == "running" and call.attempt_id is None:
                pen.rows.set_call(tx, replace(call, status="cancelled"))
                self.counts.called(tx, call, "cancelled")
        if end.note is not None:
            pen.write(turn.id, end.note)
        pen.write(turn.id, TurnEntry(end.status, error, end.retry_after))
        pen.keep()
        self._forget_text(tx, turn)
        tx.record(
            event(
                "chat:turn:finished",
                workspace_id=turn.workspace_id,
                principal=session.credential_id,
                request_id=turn.request_id,
                target=turn.id,
                outcome=end.status,
                details=None if error is None else {"code": error[0]},
            )
        )
        return pen.session

    def ask_to_cancel(self, tx: Tx, session: SessionRow, turn: TurnRow, end: End) -> None:
        """End a turn of a locked session that waits; leave word for whoever works on one that runs, now or next.

        One that runs and that nobody works on is not ended here: what it has done and not recorded would look undone.
        """
        if turn.status == "running":
            rows = ChatRepository(turn.workspace_id)
            rows.set_turn(tx, replace(turn, cancel_requested_at=turn.cancel_requested_at or now()))
            return
        self.end(tx, session, replace(turn, cancel_requested_at=now()), end)

    async def keep_text(self, claim: Claim, text: bytes) -> None:
        """Keep the running answer's text so far, so that other processes can show it. LeaseLost as above."""
        turn = claim.turn
        rows, envelopes = ChatRepository(turn.workspace_id), EnvelopeRepository(turn.workspace_id)
        sealed = self._vault.seal(
            text,
            workspace=turn.workspace_id,
            purpose=TEXT_PURPOSE,
            record_id=turn.id,
            expires_at=now() + self.retention,
        )

        def unit(tx: Tx) -> None:
            if not rows.holds(tx, turn.id, fence=turn.fence):
                raise LeaseLost(turn.id)
            envelopes.drop(tx, purpose=TEXT_PURPOSE, record_id=turn.id)
            Vault.put(tx, sealed)

        await self._database.writer.run(unit, outcome=True)

    @staticmethod
    def _forget_text(tx: Tx, turn: TurnRow) -> None:
        EnvelopeRepository(turn.workspace_id).drop(tx, purpose=TEXT_PURPOSE, record_id=turn.id)

    @staticmethod
    def held(tx: Tx, claim: Claim) -> tuple[SessionRow, TurnRow]:
        """Return session and turn of a claim, locked; LeaseLost unless the claim still holds the turn."""
        rows = ChatRepository(claim.turn.workspace_id)
        session, turn = rows.lock(tx, claim.session.id), rows.turn(tx, claim.turn.id)
        if session is None or turn is None or turn.status != "running":
            raise LeaseLost(claim.turn.id)
        if turn.holder is None or turn.fence != claim.turn.fence:
            raise LeaseLost(claim.turn.id)
        return session, turn

    async def void_leases(self) -> int:
        """Take back every lease: right at the start of the only process that works on this database."""
        return await self._database.writer.run(void_leases)

    async def write(self, unit: Callable[[Tx], T], session_id: str) -> T:
        """Run a unit that changes a session and tell those who watch it."""
        result = await self._database.writer.run(unit, outcome=True)
        self._changes.notify(session_id)
        return result


_WAITS: Final = ("pending_approval", "running")
