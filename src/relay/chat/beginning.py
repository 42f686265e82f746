"""Beginning turns: what is said becomes durable, with its session where that is new, before anybody works on it."""

from dataclasses import dataclass, replace
from typing import Final

from relay.audit.record import event
from relay.chat.entries import UserEntry
from relay.chat.identity import hash_of, new_session_id
from relay.chat.journal import Claim, Journal
from relay.chat.views import Said
from relay.core.clock import now
from relay.core.event import EventDraft
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict, NotFound
from relay.store.chat import ChatRepository, SessionRow, TurnRow
from relay.store.chat_reading import ID_PURPOSE, IMAGE_PURPOSE, image_record
from relay.store.chat_removal import MAX_IMAGES
from relay.store.vault import Sealed, Vault
from relay.store.writer import Tx

MAX_TURNS: Final = 500
MAX_ENTRIES: Final = 5_000
MAX_BYTES: Final = 64 * 1024 * 1024

NO_SESSION: Final = "There is no such session of yours."


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that has begun and is held by this process."""

    claim: Claim
    session_id: str
    created: bool
    seq: int


class Beginning:
    """Begins turns. ``lifetime`` is how long after its last message a session is kept, in microseconds.

    ``sessions`` is how many of them one principal may have at once, ``stored`` how many bytes they may hold together.
    """

    def __init__(self, journal: Journal, vault: Vault, *, lifetime: int, sessions: int, stored: int) -> None:
        self._journal = journal
        self._vault = vault
        self._lifetime = lifetime
        self._sessions = sessions
        self._stored = stored

    async def begin(self, principal: Principal, said: Said, *, owner: str, kind: str, holder: str) -> Begun:
        """Make what is said durable as a turn that ``holder`` holds; ``owner`` is whose the session is or will be.

        404 and 409 as :meth:`Chat.send` says.
        """
        created = said.session_id is None
        session_id = new_session_id() if said.session_id is None else said.session_id
        hashed = hash_of(session_id)
        if hashed is None:
            raise NotFound(NO_SESSION)
        at, workspace = now(), principal.workspace_id
        rows, turn_id = ChatRepository(workspace), new_id("trn")
        size = len(said.text.encode()) + sum(len(image.data) for image in said.images)
        sealed = self._sealed_id(workspace, hashed, session_id) if created else None
        pictures = self._sealed_pictures(workspace, turn_id, said, at)
        entry = UserEntry(said.text, tuple(image.media_type for image in said.images), said.client)

        def unit(tx: Tx) -> tuple[Claim, int]:
            session = self._new(principal, owner, hashed, at) if created else _found(rows.lock(tx, hashed), owner, at)
            _require_turn(session)
            require_room(session, size)
            self._require_share(rows.kept(tx, owner, at), size, created=created)
            _require_idle(rows.unfinished(tx, hashed))
            if sealed is not None:
                rows.insert_session(tx, session)
                Vault.put(tx, sealed)
                tx.record(_created(principal, said.request_id, hashed))
            turn = TurnRow(
                id=turn_id,
                session_id=hashed,
                workspace_id=workspace,
                kind=kind,
                status="running",
                request_id=said.request_id,
                holder=holder,
                lease_until=self._journal.lease_end(),
                fence=1,
                created_at=at,
                expires_at=at + self._journal.retention,
            )
            rows.insert_turn(tx, turn)
            pen = self._journal.pen(tx, session)
            seq = pen.write(turn_id, entry)
            for picture in pictures:
                Vault.put(tx, picture)
            pen.session = self._after(pen.session, said, principal, at)
            pen.keep()
            return Claim(pen.session, turn), seq

        claim, seq = await self._journal.write(unit, hashed)
        return Begun(claim, session_id, created, seq)

    def _require_share(self, kept: tuple[int, int], size: int, *, created: bool) -> None:
        """Refuse (409) what would fill the database in one principal's name."""
        sessions, stored = kept
        if created and sessions >= self._sessions:
            raise _spread("sessions", self._sessions, f"{self._sessions} sessions")
        if stored + size > self._stored:
            raise _spread("stored", self._stored, f"{self._stored // 1024 // 1024} MiB in sessions")

    def _new(self, principal: Principal, owner: str, hashed: str, at: int) -> SessionRow:
        until = at + self._lifetime
        return SessionRow(hashed, principal.workspace_id, owner, principal.credential_id, at, at, until)

    def _after(self, session: SessionRow, said: Said, principal: Principal, at: int) -> SessionRow:
        return replace(
            session,
            credential_id=principal.credential_id,
            last_used_at=at,
            expires_at=at + self._lifetime,
            turns=session.turns + 1,
            size=session.size + sum(len(image.data) for image in said.images),
            # Whoever made a picture may have written into it what a model reads.
            untrusted=int(bool(session.untrusted) or bool(said.images)),
        )

    def _sealed_id(self, workspace: str, hashed: str, session_id: str) -> Sealed:
        # Without an end of its own: it goes with the session.
        return self._vault.seal(
            session_id.encode(), workspace=workspace, purpose=ID_PURPOSE, record_id=hashed, expires_at=None
        )

    def _sealed_pictures(self, workspace: str, turn_id: str, said: Said, at: int) -> list[Sealed]:
        if len(said.images) > MAX_IMAGES:
            raise ValueError(f"a message has {MAX_IMAGES} pictures at most")
        return [
            self._vault.seal(
                image.data,
                workspace=workspace,
                purpose=IMAGE_PURPOSE,
                record_id=image_record(turn_id, number),
                expires_at=at + self._journal.retention,
            )
            for number, image in enumerate(said.images)
        ]


def _found(session: SessionRow | None, owner: str, at: int) -> SessionRow:
    if session is None or session.owner_id != owner or session.expires_at <= at:
        raise NotFound(NO_SESSION)
    return session


def _require_turn(session: SessionRow) -> None:
    if session.turns >= MAX_TURNS:
        raise _full("turns", MAX_TURNS, f"{MAX_TURNS} messages")


def require_room(session: SessionRow, size: int) -> None:
    """Refuse (409) what its owner would add to a session beyond its bounds; ``size`` is in bytes."""
    if session.last_seq >= MAX_ENTRIES:
        raise _full("entries", MAX_ENTRIES, f"{MAX_ENTRIES} entries")
    if session.size + size > MAX_BYTES:
        raise _full("bytes", MAX_BYTES, f"{MAX_BYTES // 1024 // 1024} MiB")


def _full(limit: str, most: int, what: str) -> Conflict:
    return Conflict(f"A session holds {what} at most; begin a new one.", limit=limit, most=most)


def _spread(limit: str, most: int, what: str) -> Conflict:
    return Conflict(f"A principal has {what} at most; delete some, or wait until they expire.", limit=limit, most=most)


def _require_idle(turns: list[TurnRow]) -> None:
    running = next((turn for turn in turns if turn.status == "running"), None)
    if running is not None:
        raise Conflict("A turn of this session is running; wait for it, or cancel it.", turn_id=running.id)


def _created(principal: Principal, request_id: str, hashed: str) -> EventDraft:
    return event(
        "chat:session:created",
        workspace_id=principal.workspace_id,
        principal=principal.id,
        request_id=request_id,
        target=hashed,
    )
