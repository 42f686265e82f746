"""Reading back what was kept of a question and its answer: for the command line alone, and never without a trace."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from relay.audit.log import AuditLog, Entry, Filters
from relay.audit.record import event
from relay.crypto.digest import sha256_hex
from relay.llm.records import ANSWER, QUESTION
from relay.store.database import Database
from relay.store.envelopes import EnvelopeRepository
from relay.store.tables import envelopes
from relay.store.vault import Vault
from relay.store.writer import Tx

_ASKED: Final = "llm:question:asked"
_PAGE: Final = 200
_TEXTS: Final = frozenset({"text", "arguments", "description", "parameters"})


class NotKept(LookupError):
    """There is no such question, or nothing of it was kept, or its time is over."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A question and its answer as they were kept. ``agrees``: their digests are those of the audit trail."""

    entry: Entry
    question: dict[str, Any]
    answer: dict[str, Any]
    agrees: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """Who reads, and whether the texts or only their lengths; ``reason`` is the reader's own word."""

    principal: str
    request_id: str
    texts: bool
    reason: str | None = None


class KeptQuestions:
    """The way back to what ``AI_RECORD=true`` has kept, in any workspace."""

    def __init__(self, database: Database, vault: Vault, log: AuditLog) -> None:
        self._database = database
        self._vault = vault
        self._log = log

    async def newest(self, limit: int, *, workspace: str | None = None, principal: str | None = None) -> list[Entry]:
        """Return the audit events of the newest questions of which something is kept, at most ``limit``."""
        log = self._log.of(workspace) if workspace else self._log.everything()
        found: list[Entry] = []
        cursor: str | None = None
        while True:
            page = await log.page(Filters(tag=_ASKED, principal=principal), limit=_PAGE, cursor=cursor)
            kept = await self._kept([entry.event.id for entry in page.entries])
            found += [entry for entry in page.entries if entry.event.id in kept]
            cursor = page.next_cursor
            if cursor is None or len(found) >= limit:
                return found[:limit]

    async def _kept(self, event_ids: Collection[str]) -> set[str]:
        column = envelopes.c
        rows = await self._database.reader.all(
            select(column.record_id).where(column.purpose == QUESTION, column.record_id.in_(event_ids))
        )
        return {str(row.record_id) for row in rows}

    async def read(self, event_id: str, reading: Reading) -> Kept:
        """Return what was kept of the question with this audit event; that it was read is recorded before.

        :class:`NotKept` where there is nothing; then nothing is recorded.
        """
        entry = await self._log.everything().entry(event_id)
        if entry is None or entry.event.tag != _ASKED:
            raise NotKept(f"there is no question {event_id}")
        await self._database.writer.run(lambda tx: _record(tx, entry, reading))
        asked, answered = await self._open(entry, QUESTION), await self._open(entry, ANSWER)
        question, answer = json.loads(asked), json.loads(answered)
        if not reading.texts:
            question, answer = without_texts(question), without_texts(answer)
        return Kept(entry, question, answer, _agrees(entry, asked, answered))

    async def _open(self, entry: Entry, purpose: str) -> bytes:
        workspace, event_id = entry.event.workspace_id, entry.event.id
        found = await self._vault.open(workspace=workspace, purpose=purpose, record_id=event_id)
        if found is None:  # it was there a moment ago
            raise NotKept(_nothing(event_id))
        return found


def without_texts(value: Any) -> Any:
    """Return what was kept with the length of each text in its place; roles, names and digests stay."""
    if isinstance(value, list):
        return [without_texts(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: f"{len(item)} characters" if name in _TEXTS and isinstance(item, str) else without_texts(item)
        for name, item in value.items()
    }


def _record(tx: Tx, entry: Entry, reading: Reading) -> None:
    kept = EnvelopeRepository(entry.event.workspace_id)
    if not all(kept.exists(tx, purpose=purpose, record_id=entry.event.id) for purpose in (QUESTION, ANSWER)):
        raise NotKept(_nothing(entry.event.id))
    tx.record(
        event(
            "llm:question:read",
            workspace_id=entry.event.workspace_id,
            principal=reading.principal,
            request_id=reading.request_id,
            target=entry.event.id,
            outcome="texts" if reading.texts else "lengths",
            details={"reason": reading.reason} if reading.reason else None,
        )
    )


def _nothing(event_id: str) -> str:
    return f"nothing is kept of {event_id}: AI_RECORD was off when it was asked, or RETENTION_DAYS are over"


def _agrees(entry: Entry, asked: bytes, answered: bytes) -> bool:
    digest = (entry.details or {}).get("answer_digest", "")
    return sha256_hex(asked) == entry.event.digest and digest in ("", sha256_hex(answered))
