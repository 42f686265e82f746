"""A session as its owner sees it. Every word that a model or the outside had a say in goes out through ``Outward``."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from relay.catalog import ActionSpec, Catalog
from relay.chat.conversation import newest_calls, opened
from relay.chat.entries import AssistantEntry, CallEntry, Entry, NoteEntry, TurnEntry, UserEntry
from relay.chat.journal import FINISHED
from relay.chat.local import LOCAL
from relay.chat.outward import Outward
from relay.chat.progress import Running
from relay.chat.views import CallView, EntryView, SessionView, TurnView
from relay.core.clock import MICROSECONDS, now
from relay.llm.messages import Usage
from relay.store.chat import CallRow, SessionRow, TurnRow
from relay.store.chat_reading import (
    ID_PURPOSE,
    TEXT_PURPOSE,
    ChatReading,
    turn_of_any_workspace,
)
from relay.store.database import Database
from relay.store.vault import Vault

SHOWN: Final = frozenset({"user", "assistant", "call", "note"})
_PASSING: Final = frozenset({"awaiting-approval", "held-back"})
"""Notes that say how things stand, and nothing once they stand otherwise."""
_GONE: Final = ("cancelled", "The turn ended before this was called.")


class Looking:
    """Makes views of what is stored."""

    def __init__(self, database: Database, vault: Vault, catalog: Catalog, outward: Outward) -> None:
        self._database = database
        self._vault = vault
        self._catalog = catalog
        self._outward = outward

    def reading(self, workspace_id: str) -> ChatReading:
        """Return the chat of a workspace, to be read."""
        return ChatReading(workspace_id, self._database.reader)

    def spec(self, action: str) -> ActionSpec | None:
        """Return an action of this installation, or None."""
        return self._catalog.get(action)

    async def call_entry(self, row: CallRow) -> CallEntry | None:
        """Return a call as it was recorded last, None once that was erased."""
        rows = await self.reading(row.workspace_id).entries(row.session_id, after=row.seq - 1, limit=1)
        found = opened(self._vault, rows)
        body = found[0].body if found and found[0].seq == row.seq else None
        return body if isinstance(body, CallEntry) else None

    async def session_id(self, session: SessionRow) -> str:
        """Return the id by which the owner knows a session; empty once that was erased."""
        found = await self._vault.open(workspace=session.workspace_id, purpose=ID_PURPOSE, record_id=session.id)
        return "" if found is None else found.decode()

    def opened_id(self, session: SessionRow, sealed: bytes | None) -> str:
        """Return the same of an envelope that was read with its session."""
        if sealed is None:
            return ""
        place = {"workspace": session.workspace_id, "purpose": ID_PURPOSE, "record_id": session.id}
        return self._vault.unseal(sealed, **place).decode()

    async def kept_text(self, turn: TurnRow) -> Running | None:
        """Return the running answer of a turn that another process works on, as it was kept last."""
        found = await self._vault.open(workspace=turn.workspace_id, purpose=TEXT_PURPOSE, record_id=turn.id)
        return None if found is None else Running.unpack(turn.id, found)

    async def turn(self, turn_id: str) -> TurnView | None:
        """Return a turn as it stands, None when there is none (any more)."""
        row = await turn_of_any_workspace(self._database.reader, turn_id)
        if row is None:
            return None
        reading = self.reading(row.workspace_id)
        session = await reading.session(row.session_id)
        if session is None:
            return None
        entries = opened(self._vault, await reading.entries_of_turn(row))
        spent = (await reading.spent([session.id])).get(session.id, 0)
        session_id = await self.session_id(session)
        # Making long or hostile texts harmless takes up to half a second of computing: other requests go on meanwhile.
        return await asyncio.to_thread(self._turn_view, row, session_id, entries, spent)

    def _turn_view(self, row: TurnRow, session_id: str, entries: Sequence[Entry], spent: int) -> TurnView:
        answers = [entry.body for entry in entries if isinstance(entry.body, AssistantEntry)]
        usage = sum((answer.usage for answer in answers), Usage())
        error = None if row.error_code is None else (row.error_code, row.error_detail or "")
        calls = [self._call_view(call, over=row.status in FINISHED) for call in newest_calls(entries).values()]
        return TurnView(
            id=row.id,
            session_id=session_id,
            status=row.status,  # type: ignore[arg-type]
            message=self._message(row, entries),
            calls=calls,
            usage=usage,
            model=answers[-1].model if answers else "",
            untrusted=any(answer.untrusted for answer in answers),
            error=error,
            retry_after=None if error is None else _seconds_left(entries),
            spent=spent,
            planned=row.kind == LOCAL and bool(answers),
        )

    def _message(self, row: TurnRow, entries: Sequence[Entry]) -> str:
        said: list[str] = []
        standing = next((entry.body for entry in reversed(entries) if isinstance(entry.body, NoteEntry)), None)
        for entry in entries:
            body = entry.body
            if isinstance(body, AssistantEntry) and body.text.strip():
                said.append(self._outward.text(body.text))
            elif isinstance(body, NoteEntry) and body.code not in _PASSING:
                said.append(body.text)
        if row.status == "awaiting_approval" and standing is not None and standing.code in _PASSING:
            said.append(standing.text)
        return "\n\n".join(said)

    async def call(self, call: CallEntry) -> CallView:
        """Return a call as it stands."""
        return await asyncio.to_thread(self._call_view, call)

    async def entries(self, entries: Sequence[Entry]) -> list[EntryView]:
        """Return entries; one that was erased says nothing."""
        return await asyncio.to_thread(lambda: [self._entry_view(entry) for entry in entries])

    def _call_view(self, call: CallEntry, *, over: bool = False) -> CallView:
        # ``over``: its turn has ended, so that nothing is performed any more.
        if over and call.is_due:
            call = replace(call, status="cancelled", error=_GONE)
        error = call.error
        if error is not None:
            error = error[0], self._outward.text(error[1])
        return CallView(
            id=call.id,
            action=call.action,
            status=call.status,
            params=call.params,
            summary=self._outward.text(call.summary),
            effect=call.effect,
            attempt_id=call.attempt_id,
            approval_id=call.approval_id,
            digest=call.digest,
            expires_at=call.expires_at,
            preview=call.preview,
            result=self._outward.value(call.result),
            error=error,
            untrusted=call.untrusted,
            origins=call.origins,
        )

    def _entry_view(self, entry: Entry) -> EntryView:
        body, text, images, call = entry.body, "", 0, None
        if isinstance(body, UserEntry):
            text, images = body.text, len(body.media)
        elif isinstance(body, AssistantEntry):
            text = self._outward.text(body.text)
        elif isinstance(body, NoteEntry):
            text = body.text
        elif isinstance(body, CallEntry):
            call = self._call_view(body)
            text = call.summary
        return EntryView(entry.seq, entry.turn_id, entry.kind, entry.at, text, images, call)

    async def sessions(self, workspace_id: str, found: Sequence[tuple[SessionRow, str]]) -> list[SessionView]:
        """Return sessions with the ids by which their owner knows them."""
        if not found:
            return []
        ids, reading = [session.id for session, _ in found], self.reading(workspace_id)
        statuses, spent = await reading.last_turns(ids), await reading.spent(ids)
        return [
            SessionView(
                id=session_id,
                created_at=session.created_at,
                last_used_at=session.last_used_at,
                expires_at=session.expires_at,
                turns=session.turns,
                status=statuses.get(session.id),  # type: ignore[arg-type]
                untrusted=bool(session.untrusted),
                spent=spent.get(session.id, 0),
            )
            for session, session_id in found
        ]


def _seconds_left(entries: Sequence[Entry]) -> int | None:
    """Return in how many seconds it may help to say again what failed: at least one, None where nobody knows."""
    for entry in reversed(entries):
        if isinstance(entry.body, TurnEntry):
            seconds = entry.body.retry_after
            return None if seconds is None else max(1, seconds - (now() - entry.at) // MICROSECONDS)
    return None
