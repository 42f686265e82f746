"""A session as it is worked on: its newest turns in memory, and which of them a model is told about."""

from collections.abc import Iterable, Sequence
from typing import Final

from relay.chat.entries import AssistantEntry, CallEntry, Entry, NoteEntry, UserEntry, unpack
from relay.store.chat import SessionRow, TurnRow
from relay.store.chat_reading import ENTRY_PURPOSE, IMAGE_PURPOSE, Bodied, ChatReading, entry_record, image_record
from relay.store.vault import Vault

IMAGE_TOKENS: Final = 1_500
LEAST_BYTES: Final = 1024 * 1024
_PAGE: Final = 100
_WORDS: Final = 8_000
_BYTES_A_TOKEN: Final = 3


def tokens(text: str) -> int:
    """Return how many tokens a text has at most, by and large: models count differently, none many more than this."""
    return len(text.encode(errors="replace")) // _BYTES_A_TOKEN + 4


def opened(vault: Vault, rows: Iterable[Bodied]) -> list[Entry]:
    """Return entries as they were written; one that was erased after its retention has no body."""
    found: list[Entry] = []
    for row, sealed in rows:
        body = None
        if sealed is not None:
            record = entry_record(row.session_id, row.seq)
            plaintext = vault.unseal(sealed, workspace=row.workspace_id, purpose=ENTRY_PURPOSE, record_id=record)
            body = unpack(row.kind, plaintext)
        found.append(Entry(row.seq, row.turn_id, row.kind, row.at, body))
    return found


class Conversation:
    """Entries of a session in their order: all of the turn that is worked on, and what came before as far as needed."""

    def __init__(self, turn_id: str, entries: Sequence[Entry]) -> None:
        self.turn_id: Final = turn_id
        self.entries: Final = list(entries)
        self.whole: Final = bool(entries) and entries[0].seq == 1
        """Whether nothing of the session is left out before them."""

    @classmethod
    async def load(
        cls, reading: ChatReading, vault: Vault, session: SessionRow, turn: TurnRow, budget: int
    ) -> "Conversation":
        """Return the whole of ``turn``, and of what came before all that fits into ``budget`` tokens.

        More where there is more: :data:`LEAST_BYTES` in any case, since what is not here cannot be traced.
        """
        found = {entry.seq: entry for entry in opened(vault, await reading.entries_of_turn(turn))}
        left, before = max(LEAST_BYTES, budget * _BYTES_A_TOKEN), session.last_seq + 1
        while left > 0:
            rows = await reading.entries(session.id, before=before, limit=_PAGE, newest=True)
            found.update((entry.seq, entry) for entry in opened(vault, rows))
            if len(rows) < _PAGE:
                break
            left -= sum(len(sealed or b"") for _, sealed in rows)
            before = rows[0][0].seq
        return cls(turn.id, [found[seq] for seq in sorted(found)])

    def add(self, entries: Sequence[Entry]) -> None:
        """Take in what was recorded."""
        self.entries.extend(entries)

    def mine(self) -> list[Entry]:
        """Return the entries of the turn that is worked on."""
        return [entry for entry in self.entries if entry.turn_id == self.turn_id]

    def said(self) -> UserEntry | None:
        """Return what began the turn, None once that was erased."""
        return next((entry.body for entry in self.mine() if isinstance(entry.body, UserEntry)), None)

    def answers(self) -> list[AssistantEntry]:
        """Return the answers of the turn so far."""
        return [entry.body for entry in self.mine() if isinstance(entry.body, AssistantEntry)]

    def notes(self) -> list[NoteEntry]:
        """Return Relay's own sentences about the turn so far."""
        return [entry.body for entry in self.mine() if isinstance(entry.body, NoteEntry)]

    def asked(self) -> list[CallEntry]:
        """Return the calls of the turn as they were asked for."""
        found: dict[str, CallEntry] = {}
        for entry in self.mine():
            if isinstance(entry.body, CallEntry):
                found.setdefault(entry.body.id, entry.body)
        return list(found.values())

    def words(self) -> str:
        """Return what was said lately, by either side and the newest first: what actions to offer are chosen by."""
        found = [
            entry.body.text for entry in reversed(self.entries) if isinstance(entry.body, UserEntry | AssistantEntry)
        ]
        named = [call.action for call in self.calls()]
        return "\n".join([*named, *found])[:_WORDS]

    @property
    def last_seq(self) -> int:
        """The number of the newest entry that is known here."""
        return self.entries[-1].seq if self.entries else 0

    def calls(self) -> list[CallEntry]:
        """Return the calls of the turn as they stand, in the order in which they were asked for."""
        return list(newest_calls(self.mine()).values())


def newest_calls(entries: Iterable[Entry]) -> dict[str, CallEntry]:
    """Return calls by their ids as they stood last, in the order in which they were asked for."""
    found: dict[str, CallEntry] = {}
    for entry in entries:
        if isinstance(entry.body, CallEntry):
            found[entry.body.id] = entry.body
    return found


async def pictures(vault: Vault, session: SessionRow, entry: Entry) -> list[tuple[str, bytes]]:
    """Return the pictures that an entry came with; those that were erased are left out."""
    body = entry.body
    found: list[tuple[str, bytes]] = []
    for number, media_type in enumerate(body.media if isinstance(body, UserEntry) else ()):
        record = image_record(entry.turn_id, number)
        data = await vault.open(workspace=session.workspace_id, purpose=IMAGE_PURPOSE, record_id=record)
        if data is not None:
            found.append((media_type, data))
    return found
