"""The chat as its doors see it: say something, look, follow, edit, cancel, delete."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final

from relay.approvals.decide import Decisions
from relay.approvals.requests import Requests
from relay.audit.record import event
from relay.catalog import Catalog
from relay.chat.beginning import NO_SESSION, Beginning
from relay.chat.conversation import opened
from relay.chat.counts import ChatCounts
from relay.chat.cursors import cursor_after, number_of, place_of
from relay.chat.drafts import NO_CALL, Draft, Drafts, Edit
from relay.chat.follow import POLL_SECONDS, Stream, Watch
from relay.chat.identity import hash_of
from relay.chat.journal import LEASE_SECONDS, End, Journal
from relay.chat.lease import new_holder
from relay.chat.local import LOCAL, LocalSpeaker
from relay.chat.looking import SHOWN, Looking
from relay.chat.outward import Outward
from relay.chat.performing import Performing
from relay.chat.runner import SWEEP_SECONDS, Runner
from relay.chat.speaking import ModelSpeaker
from relay.chat.views import CallView, EntryView, Said, SessionView, TurnHandle, TurnView
from relay.chat.work import CANCELLED, Tools
from relay.core.clock import now
from relay.core.principal import Principal
from relay.core.problem import Conflict, NotFound
from relay.core.streams import Place, Places
from relay.gate.authenticate import Credentials
from relay.gate.perform import Performer
from relay.llm.protocol import Models
from relay.planning.local import LocalPlanner
from relay.queue.protocol import CHAT, Queue
from relay.runs.changes import Changes
from relay.store.chat import ChatRepository, SessionRow, TurnRow
from relay.store.chat_reading import turn_of_any_workspace, turn_of_call
from relay.store.chat_removal import remove_session
from relay.store.database import Database
from relay.store.lines import Lines
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.telemetry.metrics import Metrics

MAX_PAGE: Final = 100
_MODEL: Final = "model"
_RESTS: Final = frozenset({"done", "failed", "cancelled", "awaiting_approval"})
_EDIT_SECONDS: Final = 30.0
_CANCEL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ChatRules:
    """What settings say about the chat. ``lifetime`` and ``retention`` are in microseconds, ``grace`` in seconds.

    One principal has at most ``sessions`` sessions, which hold at most ``stored`` bytes.
    """

    lifetime: int
    sessions: int
    stored: int
    retention: int
    calls_per_turn: int
    context_tokens: int
    link_hosts: tuple[str, ...]
    actions_enabled: bool
    grace: float


class Chat:
    """The chat sessions of every workspace; each method is scoped to the principal, who owns what it may see.

    A session that is not there, has expired or is somebody else's is one and the same 404.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        gate: Performer,
        catalog: Catalog,
        credentials: Credentials,
        models: Models,
        decisions: Decisions,
        requests: Requests,
        queue: Queue,
        places: Places,
        rules: ChatRules,
        *,
        lease_seconds: float = LEASE_SECONDS,
        sweep_seconds: float = SWEEP_SECONDS,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._models = models
        self._queue = queue
        self._rules = rules
        self._lines = Lines(database.reader)
        self._changes = Changes()
        self._closing = asyncio.Event()
        outward = Outward(rules.link_hosts)
        self._looking = Looking(database, vault, catalog, outward)
        self._vault = vault
        counts = ChatCounts(metrics or Metrics.off())
        self._journal = Journal(
            database, vault, self._changes, retention=rules.retention, lease_seconds=lease_seconds, counts=counts
        )
        performing = Performing(gate, requests)
        self._drafts = Drafts(
            database,
            vault,
            gate,
            decisions,
            self._journal,
            self._looking,
            performing,
            credentials,
            context_tokens=rules.context_tokens,
            actions_enabled=rules.actions_enabled,
        )
        tools = Tools(
            database,
            vault,
            gate,
            credentials,
            self._lines,
            self._journal,
            performing,
            self._drafts,
            {
                _MODEL: ModelSpeaker(models, vault, outward, budget=rules.context_tokens),
                LOCAL: LocalSpeaker(LocalPlanner(), outward),
            },
            rules.calls_per_turn,
            rules.context_tokens,
            rules.actions_enabled,
        )
        self._runner = Runner(tools, self._looking, self._changes, queue, sweep_seconds=sweep_seconds)
        self._beginning = Beginning(
            self._journal, vault, lifetime=rules.lifetime, sessions=rules.sessions, stored=rules.stored
        )
        self._watch = Watch(
            database,
            vault,
            credentials,
            self._looking,
            self._changes,
            self._closing,
            places,
            self._runner.running,
            self._runner.works_on,
            counts,
        )

    async def start(self, *, sole_process: bool) -> None:
        """Work on turns, with what an earlier process left first; see :meth:`relay.runs.service.Runs.start`.

        A process that does not call it takes messages all the same, and works on the turns that it began.
        """
        await self._runner.start(sole_process=sole_process)

    async def stop(self) -> None:
        """Close the streams and let go of every turn at its next step; calls under way come to their end first."""
        self.close_streams()
        await self._runner.stop(self._rules.grace)

    def close_streams(self) -> None:
        """End every stream now; to be called when a shutdown begins, before the server waits for answers."""
        self._closing.set()
        self._changes.notify_all()

    async def send(self, principal: Principal, said: Said) -> TurnHandle:
        """Begin a turn and return at once: it goes on whether or not anybody waits for it.

        404 for a session that is not this principal's; 409 while another turn of the session runs, and when the
        session has reached one of its bounds (``limit`` says which).
        """
        kind = LOCAL if self._models.name is None else _MODEL
        owner = await self._lines.first(principal)
        begun = await self._beginning.begin(principal, said, owner=owner, kind=kind, holder=new_holder())
        self._runner.begin(begun.claim)
        after = "0" if begun.created else str(begun.seq)
        return TurnHandle(begun.session_id, begun.claim.turn.id, after, begun.created)

    async def finished(self, turn_id: str) -> TurnView:
        """Return a turn once it is done, failed, cancelled or waits for an approval; 404 once it was deleted.

        When the server stops before, the turn is returned as it stands.
        """
        turn = await turn_of_any_workspace(self._database.reader, turn_id)
        if turn is None:
            raise NotFound(NO_SESSION)
        with self._changes.watch(turn.session_id) as woken:
            while True:
                woken.clear()
                turn = await turn_of_any_workspace(self._database.reader, turn_id)
                if turn is None or turn.status in _RESTS or self._closing.is_set():
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await woken.wait()
        return await self._view(turn_id)

    async def _view(self, turn_id: str) -> TurnView:
        view = await self._looking.turn(turn_id)
        if view is None:
            raise NotFound(NO_SESSION)
        return view

    def place(self, principal: Principal) -> Place:
        """Take the place of a stream that is opened later; 429 when the principal has too many open.

        For whoever changes something first: what is refused then has not happened.
        """
        return self._watch.places.take(principal)

    async def follow(
        self,
        principal: Principal,
        session_id: str,
        last_event_id: str | None,
        caller: str,
        *,
        turn_id: str | None = None,
        place: Place | None = None,
    ) -> Stream:
        """Return a stream of a session's events after ``last_event_id`` (from its start when None or none of its own).

        With ``turn_id`` it ends once that turn is done, failed, cancelled or waits for an approval; without, only with
        the session, the credential or the server. ``caller`` is the address that reads. 404; 429 when the principal has
        too many streams open and ``place`` was not taken before. The stream counts until its ``close()``::

            async for event in stream.events():   # an Event, or None after 15 s of silence: send a comment
        """
        session = await self._session(principal, session_id)
        place = place or self.place(principal)
        return Stream(self._watch, place, principal, session, session_id, last_event_id, caller, turn_id)

    async def page(self, principal: Principal, limit: int, cursor: str | None) -> tuple[list[SessionView], str | None]:
        """Return up to ``limit`` of the principal's sessions, newest first, and the cursor of the next page.

        Empty for a principal that many share (the chat key, the pilot mode): its sessions are found by their ids alone.
        """
        if principal.auth_method == "chat_key":
            return [], None
        limit = min(limit, MAX_PAGE)
        reading = self._looking.reading(principal.workspace_id)
        owner, before = await self._lines.first(principal), place_of(cursor)
        rows = await reading.page(owner, at=now(), limit=limit + 1, before=before)
        page = [(session, self._looking.opened_id(session, sealed)) for session, sealed in rows[:limit]]
        following = cursor_after(page[-1][0]) if len(rows) > limit else None
        return await self._looking.sessions(principal.workspace_id, page), following

    async def show(
        self, principal: Principal, session_id: str, limit: int, cursor: str | None
    ) -> tuple[SessionView, list[EntryView], str | None]:
        """Return a session, up to ``limit`` of its entries, oldest first, and the cursor of the next page."""
        session = await self._session(principal, session_id)
        after, limit = number_of(cursor), min(limit, MAX_PAGE)
        # Its state first: whoever reads that a turn is done finds its answer among the entries.
        [view] = await self._looking.sessions(principal.workspace_id, [(session, session_id)])
        reading = self._looking.reading(principal.workspace_id)
        rows = await reading.entries(session.id, after=after, limit=limit + 1, kinds=SHOWN)
        views = await self._looking.entries(opened(self._vault, rows[:limit]))
        return view, views, str(views[-1].seq) if len(rows) > limit else None

    async def delete(self, principal: Principal, session_id: str, request_id: str) -> None:
        """Delete a session with everything in it, at once. Its turns end, and what waits in it is withdrawn."""
        session = await self._session(principal, session_id)
        for turn in await self._looking.reading(session.workspace_id).unfinished(session.id):
            works_here = self._runner.cancel(turn.id)
            await self._drafts.withdraw_all(principal, session, turn, request_id)
            if not works_here:  # who works on it here withdraws what it asks for meanwhile once the session is gone
                await self._drafts.withdraw_unrecorded(principal, session, turn, request_id)
        rows = ChatRepository(session.workspace_id)
        draft = event(
            "chat:session:deleted",
            workspace_id=session.workspace_id,
            principal=principal.id,
            request_id=request_id,
            target=session.id,
        )

        def unit(tx: Tx) -> bool:
            if rows.lock(tx, session.id) is None:
                return False
            remove_session(tx, session.id)
            tx.record(draft)
            return True

        if not await self._journal.write(unit, session.id):
            raise NotFound(NO_SESSION)

    async def cancel(self, principal: Principal, session_id: str, request_id: str) -> TurnView:
        """End the running turn after the call under way, or else the turns that wait; what waits is withdrawn.

        Returns the turn as it stands; 409 when there is none to end.
        """
        session = await self._session(principal, session_id)
        turns = await self._looking.reading(session.workspace_id).unfinished(session.id)
        chosen = [turn for turn in turns if turn.status == "running"] or turns
        if not chosen:
            raise Conflict("No turn of this session runs or waits.")
        for turn in chosen:
            await self._end(session, turn)
            await self._drafts.withdraw_all(principal, session, turn, request_id)
        return await self._view(chosen[-1].id)

    async def _end(self, session: SessionRow, turn: TurnRow) -> None:
        """End a turn that waits; leave word for whoever works on one that runs, or take it up to end it."""
        rows = ChatRepository(session.workspace_id)

        def unit(tx: Tx) -> None:
            locked, found = rows.lock(tx, session.id), rows.turn(tx, turn.id)
            if locked is None or found is None or found.status not in ("running", "awaiting_approval"):
                return
            self._journal.ask_to_cancel(tx, locked, found, End("cancelled", note=CANCELLED))

        await self._journal.write(unit, session.id)
        if self._runner.cancel(turn.id):
            return
        claim = await self._journal.claim(turn.id, new_holder())
        if claim is not None:  # nobody works on it any more: its calls may have got further than is recorded
            self._runner.begin(claim)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CANCEL_SECONDS):
                    await self.finished(turn.id)

    async def find_call(self, principal: Principal, session_id: str, call_id: str) -> CallView:
        """Return a call of the principal's session as it stands; 404 for any other."""
        return await self._shown(await self._draft(principal, session_id, call_id))

    async def edit_call(
        self,
        principal: Principal,
        session_id: str,
        call_id: str,
        params: dict[str, Any],
        request_id: str,
        client: str,
    ) -> CallView:
        """Replace the draft of a call that waits for approval: its request is withdrawn, the new step asked for.

        Returns the call as it stands then: with another digest it waits again, or it has run. 422 with pointers below
        ``/params`` and 403 for a step that is not valid or that policy denies: nothing has changed then. 409 for a
        call that does not wait for approval (any more), while another turn of the session runs, and when the session
        has reached one of its bounds.
        """
        draft = await self._draft(principal, session_id, call_id)
        claim = await self._drafts.edit(principal, draft, Edit(params, request_id, client))
        self._runner.begin(claim)
        return await self._shown(await self._performed(draft.session, call_id))

    async def _performed(self, session: SessionRow, call_id: str) -> Draft:
        """Return a call once it is not due any more, or as it stands after a while."""
        with contextlib.suppress(TimeoutError), self._changes.watch(session.id) as woken:
            async with asyncio.timeout(_EDIT_SECONDS):
                while (await self._drafts.find(session, call_id)).call.is_due:
                    woken.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL_SECONDS):
                            await woken.wait()
        return await self._drafts.find(session, call_id)

    async def cancel_call(self, principal: Principal, session_id: str, call_id: str, request_id: str) -> CallView:
        """Withdraw a call that waits for approval or is held back; the turn goes on. 409 for one that does not wait."""
        draft = await self._draft(principal, session_id, call_id)
        draft = await self._drafts.withdraw(principal, draft, request_id)
        await self._queue.put(CHAT, draft.row.turn_id)
        return await self._shown(draft)

    async def approval_of_call(self, workspace_id: str, session_id: str, call_id: str) -> str:
        """Return the id of the approval that a call of any session of the workspace waits for.

        For approvers: whoever knows both ids. 404 for anything else; 409 for a call that waits for no approval.
        """
        hashed = hash_of(session_id)
        reading = self._looking.reading(workspace_id)
        session = None if hashed is None else await reading.session(hashed)
        if session is None or session.expires_at <= now():
            raise NotFound(NO_SESSION)
        row = await reading.call(session.id, call_id)
        if row is None:
            raise NotFound(NO_CALL)
        if row.approval_id is None:
            raise Conflict("This call waits for no approval.", call_status=row.status)
        return row.approval_id

    async def decided(self, session_id: str, call_id: str) -> None:
        """Look at a call now whose approval was decided; the sweep does it a second later otherwise."""
        hashed = hash_of(session_id)
        turn_id = None if hashed is None else await turn_of_call(self._database.reader, hashed, call_id)
        if turn_id is not None:
            await self._queue.put(CHAT, turn_id)

    async def _draft(self, principal: Principal, session_id: str, call_id: str) -> Draft:
        return await self._drafts.find(await self._session(principal, session_id), call_id)

    async def _shown(self, draft: Draft) -> CallView:
        return await self._looking.call(draft.call)

    async def _session(self, principal: Principal, session_id: str) -> SessionRow:
        hashed = hash_of(session_id)
        found = None if hashed is None else await self._looking.reading(principal.workspace_id).session(hashed)
        owner = await self._lines.first(principal)
        if found is None or found.owner_id != owner or found.expires_at <= now():
            raise NotFound(NO_SESSION)
        return found
