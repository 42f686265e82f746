"""Following a session: its events as they are recorded, by this process or another one.

An event's id is the number of its entry, or for a piece of a running answer the number of the entry before it and how
much of its text has been shown: ``12`` and ``12.340``. A watcher that comes back with the last one it saw misses
nothing; a piece says where it belongs, so that applying one twice changes nothing.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from relay.chat.conversation import opened
from relay.chat.counts import ChatCounts
from relay.chat.entries import AssistantEntry, CallEntry, Entry, NoteEntry, TurnEntry, UserEntry
from relay.chat.looking import Looking
from relay.chat.progress import Running
from relay.chat.shown import shown_call, shown_turn
from relay.chat.views import Event
from relay.core.clock import iso, now
from relay.core.principal import Principal
from relay.core.streams import HEARTBEAT_SECONDS, Place, Places
from relay.gate.authenticate import Credentials, reason_to_end
from relay.runs.changes import Changes
from relay.store.chat import SessionRow
from relay.store.database import Database
from relay.store.vault import Vault
from relay.store.writer import StoreUnavailable

POLL_SECONDS: Final = 0.4
LOCAL_POLL_SECONDS: Final = 2.0
CREDENTIAL_SECONDS: Final = 1.0
_BATCH: Final = 10
MAX_DELTA: Final = 4_096
"""The longest piece of text that one event tells: readers who do not read have the server hold one event each."""
_CHAT: Final = frozenset({"chat"})
_ID: Final = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Watch:
    """What streams need of the chat. ``running`` and ``works_on`` know this process's turns by the session's hash."""

    database: Database
    vault: Vault
    credentials: Credentials
    looking: Looking
    changes: Changes
    closing: asyncio.Event
    places: Places
    running: Callable[[str], Running | None]
    works_on: Callable[[str], bool]
    counts: ChatCounts


class Stream:
    """One open stream. It counts against its principal until :meth:`close`, or until nobody holds it any more."""

    def __init__(
        self,
        watch: Watch,
        place: Place,
        principal: Principal,
        session: SessionRow,
        session_id: str,
        last_event_id: str | None,
        caller: str,
        turn_id: str | None,
    ) -> None:
        self._watch = watch
        self._place = place
        self._principal = principal
        self._session = session
        self._session_id = session_id
        self._caller = caller
        self._turn_id = turn_id
        self._after, self._chars = _place_of(last_event_id, session.last_seq)
        self._said = self._after
        self._fresh = last_event_id is None
        self._over = False
        self._read_at = -POLL_SECONDS

    def close(self) -> None:
        """Give the principal's place back; harmless when it was given back before."""
        self._place.give_back()

    async def events(self) -> AsyncGenerator[Event | None]:
        """Yield events, and None after each 15 seconds of silence; an ``end`` event says why it ends by itself.

        The credential, and from where it may be used, is looked at each second. While the database is away nothing can
        be said about either, and the stream ends; its watcher comes back by itself.
        """
        if self._fresh:
            yield Event("session", {"session_id": self._session_id})
        with self._watch.counts.streaming(), self._watch.changes.watch(self._session.id) as woken:
            checked, beaten = -CREDENTIAL_SECONDS, time.monotonic()
            while True:
                woken.clear()
                moment = time.monotonic()
                look = moment - checked >= CREDENTIAL_SECONDS
                if (reason := await self._reason_to_end(look=look)) is not None:
                    yield Event("end", {"reason": reason})
                    return
                checked = moment if look else checked
                async for event in self._new():
                    beaten = time.monotonic()
                    yield event
                if self._over:
                    return
                if moment - beaten >= HEARTBEAT_SECONDS:
                    beaten = moment
                    yield None
                await self._pause(woken)

    async def _pause(self, woken: asyncio.Event) -> None:
        here = self._watch.works_on(self._session.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOCAL_POLL_SECONDS if here else POLL_SECONDS):
                await woken.wait()

    async def _reason_to_end(self, *, look: bool) -> str | None:
        if self._watch.closing.is_set():
            return "shutdown"
        if not look:
            return None
        reason = await reason_to_end(self._watch.credentials, self._principal, self._caller, _CHAT)
        if reason is not None:
            return reason
        try:
            found = await self._watch.looking.reading(self._session.workspace_id).session(self._session.id)
        except StoreUnavailable:
            return "unavailable"
        if found is None:
            return "deleted"
        return "expired" if found.expires_at <= now() else None

    async def _new(self) -> AsyncIterator[Event]:
        reading = self._watch.looking.reading(self._session.workspace_id)
        try:
            while True:
                # The text first: an answer that is recorded in between is told as a whole by its entry.
                running = await self._running()
                if self._only_grows(running):
                    break
                self._read_at = time.monotonic()
                rows = await reading.entries(self._session.id, after=self._after, limit=_BATCH)
                for entry in opened(self._watch.vault, rows):
                    self._after, self._chars = entry.seq, 0
                    self._said = entry.seq if entry.kind == "assistant" else self._said
                    if (event := await self._event(entry)) is not None:
                        yield event
                    if self._over:
                        return
                if len(rows) < _BATCH:
                    break
        except StoreUnavailable:  # the look at the credential, or the next poll, says more
            return
        while running is not None and (event := self._delta(running)) is not None:
            yield event

    def _only_grows(self, running: Running | None) -> bool:
        """Say whether an answer of this process is all that there can be to tell, but for what others did just now."""
        if running is None or running.seq != self._after or not self._watch.works_on(self._session.id):
            return False
        return time.monotonic() - self._read_at < POLL_SECONDS

    async def _running(self) -> Running | None:
        if self._watch.works_on(self._session.id):
            return self._watch.running(self._session.id)
        turn = await self._watch.looking.reading(self._session.workspace_id).running(self._session.id)
        return None if turn is None else await self._watch.looking.kept_text(turn)

    def _delta(self, running: Running) -> Event | None:
        if running.seq > self._after or running.seq < self._said:
            return None  # entries that are not read yet come before it, or the whole of it was told
        text, offset = running.text, self._chars
        if len(text) <= offset:
            return None
        piece = text[offset : offset + MAX_DELTA]
        self._chars += len(piece)
        data = {"turn_id": running.turn_id, "offset": offset, "text": piece}
        return Event("delta", data, f"{self._after}.{self._chars}")

    async def _event(self, entry: Entry) -> Event | None:
        """Return what is told of an entry. One that was erased is passed over."""
        found = await self._told(entry)
        return None if found is None else Event(found[0], found[1], str(entry.seq))

    async def _told(self, entry: Entry) -> tuple[str, dict[str, Any]] | None:
        body, looking = entry.body, self._watch.looking
        about = {"turn_id": entry.turn_id, "at": iso(entry.at)}
        match body:
            case UserEntry():
                return "user", {**about, "text": body.text, "attachments": len(body.media)}
            case AssistantEntry() if body.text.strip():
                [shown] = await looking.entries([entry])
                return "message", {**about, "text": shown.text}
            case NoteEntry():
                return "note", {**about, "text": body.text, "code": body.code}
            case CallEntry():
                return "call", {**about, **shown_call(await looking.call(body)).model_dump(mode="json")}
            case TurnEntry():
                return await self._turn(entry, body)
        return None

    async def _turn(self, entry: Entry, body: TurnEntry) -> tuple[str, dict[str, Any]] | None:
        view = await self._watch.looking.turn(entry.turn_id)
        if view is None:
            return None
        if view.id == self._turn_id and view.status != "running" and body.status == view.status:
            self._over = True
        return "turn", shown_turn(view).model_dump(mode="json")


def _place_of(last_event_id: str | None, last_seq: int) -> tuple[int, int]:
    """Return after which entry a watcher goes on, and how much of the running answer it has seen.

    What is no id of the session's own begins at the start.
    """
    found = _ID.fullmatch(last_event_id or "")
    if found is None or int(found[1]) > last_seq:
        return 0, 0
    return int(found[1]), int(found[2] or 0)
