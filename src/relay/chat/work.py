"""Working through one turn: ask, record, perform, and ask again, while its lease is held."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from pydantic_core import to_json

from relay.catalog import ActionSpec
from relay.chat.conversation import Conversation, opened
from relay.chat.drafts import Drafts
from relay.chat.entries import AssistantEntry, Body, Called, CallEntry, Entry, NoteEntry
from relay.chat.functions import MAX_FUNCTIONS, Offer, is_name, offer, usable
from relay.chat.journal import Claim, End, Journal
from relay.chat.lease import CancelAsked, Hold, Interrupted, LeaseLost
from relay.chat.origins import Traced
from relay.chat.performing import Asking, Performing, Revoked
from relay.chat.progress import Keeping, Progress
from relay.chat.sources import Sources
from relay.chat.speaking import Speaker, Spoken, Topic
from relay.core.principal import Principal
from relay.core.problem import AddressNotAllowed, InsufficientScope, Problem, Unavailable
from relay.gate.ask import AskerReplaced
from relay.gate.authenticate import Credentials
from relay.gate.perform import Performer
from relay.planning.narrowing import narrow
from relay.store.chat import ChatRepository
from relay.store.chat_reading import ChatReading
from relay.store.database import Database
from relay.store.lines import Lines
from relay.store.vault import Vault
from relay.store.writer import StoreUnavailable, Tx

T = TypeVar("T")

MAX_ALIKE: Final = 2
"""How often the very same read is performed in one turn. What changes anything is asked for once."""
MAX_FENCE: Final = 200
"""How often a turn is taken up before it counts as one that ends every process which does so."""
_CHAT: Final = frozenset({"chat"})
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

REVOKED: Final = ("credential-revoked", "The credential that this session belongs to is not valid any more.")
BROKEN: Final = ("internal", "Something broke inside Relay; the request id leads to it in the log.")
UNRECORDED: Final = ("unavailable", "The database did not take what was said. Nothing was lost; say it again.")
ERASED: Final = ("erased", "What was said was erased after its retention.")
HELD: Final = NoteEntry(
    "awaiting-approval", "This waits for approval. As soon as it is decided, the conversation goes on by itself."
)
HELD_BACK: Final = NoteEntry(
    "held-back", "This has not come to its end yet. As soon as it has, the conversation goes on by itself."
)
REPEATED: Final = NoteEntry("repeated-call", "The same call was asked for again and again, so this was ended here.")
SILENT: Final = NoteEntry("no-answer", "The model has given no answer. Say it in other words, or try again.")
CUT: Final = NoteEntry("answer-cut", "The answer was longer than an answer may be, and ends here.")
CANCELLED: Final = NoteEntry("cancelled", "This was cancelled.")
_TOO_MANY: Final = "too-many-calls"
_ENDING: Final = frozenset({REPEATED.code, _TOO_MANY})
_ALIKE: Final = ("repeated", "This very call was made before; it is not made again.")

log = logging.getLogger("relay.chat")


def too_many(most: int) -> NoteEntry:
    """Return what is said about a turn that asks for more calls than a turn may have."""
    return NoteEntry(_TOO_MANY, f"One message may lead to {most} calls, so this was ended here.")


@dataclass(frozen=True, slots=True)
class Tools:
    """What the work on any turn needs."""

    database: Database
    vault: Vault
    gate: Performer
    credentials: Credentials
    lines: Lines
    journal: Journal
    performing: Performing
    drafts: Drafts
    speakers: dict[str, Speaker]
    calls_per_turn: int
    context_tokens: int
    actions_enabled: bool


class Work:
    """One turn being worked on. Nothing in here runs an action: every call is the gate's to perform."""

    def __init__(self, tools: Tools, claim: Claim, hold: Hold, progress: Progress) -> None:
        self._tools = tools
        self._claim = claim
        self._hold = hold
        self._progress = progress
        self._journal = tools.journal
        self._session = claim.session
        self._conversation = Conversation(claim.turn.id, ())
        self._sources = Sources()

    async def go(self) -> None:
        """Go on where the turn stands, up to its end or to where it has to wait.

        ``LeaseLost`` or ``Interrupted`` when it stops before that; the turn is then as it was recorded last.
        """
        try:
            await self._go()
        except (LeaseLost, Interrupted):
            raise
        except CancelAsked:
            await self._take_in()
            await self._cancel()
        except Revoked:
            await self._take_in()
            await self._finish(End("failed", REVOKED))
        except Problem as problem:
            await self._take_in()
            wait = problem.extensions.get("retry_after")
            await self._finish(End("failed", (_code_of(problem), problem.detail), retry_after=wait))
        except StoreUnavailable:  # what a model has said could not be recorded, so nobody may act on it
            await self._finish(End("failed", UNRECORDED))
        except Exception as error:  # a defect must not repeat itself for ever
            log.error("turn %s broke: %s", self._claim.turn.id, type(error).__name__, exc_info=error)
            await self._finish(End("failed", BROKEN))

    async def _take_in(self) -> None:
        """Record what an earlier holder of the turn has done and not recorded, before the turn ends without it."""
        try:
            await self._to_the_end(self._record_what_was_done)
        except LeaseLost:
            raise
        except Exception as error:  # a defect must not keep a turn from ending
            log.error("turn %s cannot be looked at: %s", self._claim.turn.id, type(error).__name__, exc_info=error)

    async def _record_what_was_done(self) -> None:
        tools, session, turn = self._tools, self._session, self._claim.turn
        reading = ChatReading(session.workspace_id, tools.database.reader)
        entries = opened(tools.vault, await reading.entries_of_turn(turn))
        for call in Conversation(turn.id, entries).calls():
            if call.is_due:
                done = await tools.performing.done_before(session.workspace_id, session.credential_id, call)
                if done is not None:
                    await self._journal.called(self._claim, done)

    async def _cancel(self) -> None:
        # First what waits: a turn that is over is nobody's to take up again.
        await self._to_the_end(lambda: self._tools.drafts.withdraw_of(self._claim))
        await self._finish(End("cancelled", note=CANCELLED))

    async def _finish(self, end: End) -> None:
        await self._to_the_end(lambda: self._journal.finish(self._claim, end))

    async def _to_the_end(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Call until the database allows it, also when somebody has asked to end the turn."""
        while True:
            try:
                return await attempt()
            except StoreUnavailable:
                await asyncio.sleep(_FIRST_PAUSE)
                if self._hold.is_lost:
                    raise LeaseLost from None

    async def _go(self) -> None:
        turn = self._claim.turn
        if turn.cancel_requested_at is not None:
            raise CancelAsked
        if turn.fence > MAX_FENCE:
            await self._finish(End("failed", BROKEN))
            return
        await self._load()
        if self._conversation.said() is None:
            await self._finish(End("failed", ERASED))
            return
        while not await self._step():
            self._hold.ensure()

    async def _load(self) -> None:
        tools = self._tools
        reading = ChatReading(self._session.workspace_id, tools.database.reader)
        session = await self._insist(lambda: reading.session(self._session.id))
        if session is None:
            raise LeaseLost
        self._session = session
        self._conversation = await self._insist(
            lambda: Conversation.load(reading, tools.vault, session, self._claim.turn, tools.context_tokens)
        )

    async def _step(self) -> bool:
        """Perform what is due, or else ask; return whether the turn has come to where it rests."""
        calls = self._conversation.calls()
        due = next((call for call in calls if call.is_due), None)
        if due is not None:
            await self._perform(due)
            return False
        if waiting := [call.status for call in calls if call.waits]:
            note = HELD if "pending_approval" in waiting else HELD_BACK
            if await self._insist(lambda: self._journal.park(self._claim, note)):
                return True
            await self._load()  # they have ended since they were looked at
            return False
        if any(note.code in _ENDING for note in self._conversation.notes()):
            await self._finish(End("done"))
            return True
        return await self._ask()

    async def _principal(self) -> Principal:
        """Return the owner with the scopes that are left; :class:`Revoked` when the credential has died."""
        session, said = self._session, self._conversation.said()
        principal = await self._insist(lambda: self._tools.credentials.reload(session.credential_id))
        if principal is None or principal.workspace_id != session.workspace_id:
            raise Revoked
        if await self._insist(lambda: self._tools.lines.first(principal)) != session.owner_id:
            raise Revoked
        if missing := principal.missing(_CHAT):
            raise InsufficientScope(missing, _CHAT)
        client = "" if said is None else said.client
        if principal.allowed_from is not None and not principal.allowed_from.admits(client):
            raise AddressNotAllowed("This API key may not be used any more from where this was said.")
        return principal

    async def _specs(self, principal: Principal) -> list[ActionSpec]:
        if not self._tools.actions_enabled:
            return []
        return usable(principal, await self._insist(lambda: self._tools.gate.visible(principal)))

    async def _perform(self, call: CallEntry) -> None:
        principal = await self._principal()
        spec = next((spec for spec in await self._specs(principal) if spec.name == call.action), None)
        said = self._conversation.said()
        traced = await self._traced(call, spec)
        client = "" if said is None else said.client
        asking = Asking(principal, self._claim.turn.request_id, client, traced.untrusted, self._still_held)
        self._hold.ensure()
        try:
            done = await self._insist(lambda: self._tools.performing.perform(asking, spec, call, traced))
        except AskerReplaced:
            raise LeaseLost(self._claim.turn.id) from None
        try:
            await self._record(lambda: self._journal.called(self._claim, done))
        except LeaseLost:
            await self._to_the_end(lambda: self._tools.drafts.withdraw_left(principal, self._claim, done))
            raise

    def _still_held(self, tx: Tx) -> bool:
        turn = self._claim.turn
        return ChatRepository(turn.workspace_id).holds(tx, turn.id, fence=turn.fence)

    async def _traced(self, call: CallEntry, spec: ActionSpec | None) -> Traced:
        reading = ChatReading(self._session.workspace_id, self._tools.database.reader)
        known = (reading, self._tools.vault, self._session.id, self._conversation)
        await self._insist(lambda: self._sources.catch_up(*known))
        return await self._sources.trace(spec, call, untrusted=bool(self._session.untrusted))

    async def _ask(self) -> bool:
        """Have somebody answer and record it; return whether the turn has come to its end."""
        principal = await self._principal()
        offered = await self._offer(principal)
        topic = Topic(self._session, self._conversation, principal, self._claim.turn.request_id, offered)
        self._hold.ensure()
        spoken = await self._hold.lasting(self._spoken(topic))
        return await self._answered(spoken, offered)

    async def _offer(self, principal: Principal) -> Offer:
        specs = await self._specs(principal)
        return offer(narrow(self._conversation.words(), specs, MAX_FUNCTIONS))

    async def _spoken(self, topic: Topic) -> Spoken:
        self._progress.begin(self._conversation.last_seq)
        async with Keeping(self._journal, self._claim, self._progress):
            return await self._tools.speakers[self._claim.turn.kind].speak(topic, self._progress.add)

    async def _answered(self, spoken: Spoken, offered: Offer) -> bool:
        before = self._conversation.calls()
        wanted = spoken.calls[: max(0, self._tools.calls_per_turn - len(before))]
        calls = [self._tools.performing.asked(offered, name, arguments) for name, arguments in wanted]
        calls, repeated = without_repetition(self._conversation, calls)
        notes = [CUT] if spoken.cut else []
        if repeated:
            notes.append(REPEATED)
        elif len(spoken.calls) > len(wanted):
            notes.append(too_many(self._tools.calls_per_turn))
        elif not calls and not spoken.text.strip():
            notes.append(SILENT)
        entry = AssistantEntry(
            spoken.text,
            spoken.model,
            tuple(_called(call, offered) for call in calls),
            spoken.usage,
            spoken.cut,
            bool(self._session.untrusted),
            spoken.planned,
        )
        bodies: list[Body] = [entry, *notes]
        end = None if calls else End("done")
        await self._record(lambda: self._journal.answered(self._claim, bodies, calls, end))
        self._progress.end()
        return end is not None

    async def _record(self, write: Callable[[], Awaitable[list[Entry]]]) -> None:
        written = await self._insist(write)
        if not written:
            await self._load()  # it was written by a transaction that nobody had heard the end of
            return
        self._conversation.add(written)
        if any(isinstance(entry.body, CallEntry) and entry.body.untrusted for entry in written):
            self._session = replace(self._session, untrusted=1)

    async def _insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call until the database allows it, with growing pauses, as long as the turn is held."""
        seconds = _FIRST_PAUSE
        while True:
            try:
                return await attempt()
            except (StoreUnavailable, Unavailable) as error:
                log.warning("turn %s waits: %s", self._claim.turn.id, type(error).__name__)
            await self._hold.pause(seconds)
            seconds = min(seconds * 2, _LONGEST_PAUSE)


def without_repetition(conversation: Conversation, calls: Sequence[CallEntry]) -> tuple[list[CallEntry], bool]:
    """Return new calls, refused where they were made as often as they may be before, and whether any were."""
    made = Counter(_likeness(call) for call in conversation.asked())
    found: list[CallEntry] = []
    repeated = False
    for call in calls:
        alike = _likeness(call)
        made[alike] += 1
        if made[alike] > (MAX_ALIKE if call.effect == "read" else 1):
            call, repeated = replace(call, status="refused", wanted=None, error=_ALIKE), True
        found.append(call)
    return found, repeated


def _likeness(call: CallEntry) -> bytes:
    """Return what two calls have in common that ask for the same; those that were refused at once by their error."""
    return to_json([call.action, _sorted(call.wanted), call.error if call.wanted is None else None])


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(member) for member in value] if isinstance(value, list) else value


def _called(call: CallEntry, offered: Offer) -> Called:
    """Return a call as a model is reminded of it: what it wrote where that can be read, else nothing of it."""
    name = next((name for name, spec in offered.specs.items() if spec.name == call.action), call.action)
    arguments = "{}" if call.wanted is None else to_json(call.wanted).decode()
    return Called(call.id, name if is_name(name) else "unknown", arguments)


def _code_of(problem: Problem) -> str:
    """Return the slug of a problem; where a budget is used up, with which one that is."""
    budget = problem.extensions.get("budget")
    return problem.slug if budget is None else f"{problem.slug}-{budget}"
