"""Signing the log's head: each minute when it moved, at start and at stop, never over a log that contradicts itself."""

import asyncio
import contextlib
import logging
from typing import Final

from sqlalchemy import bindparam, insert, select

from relay.audit.chain import GENESIS
from relay.audit.notes import as_line, check_note, sign_head
from relay.audit.trust import HeadKeys
from relay.core.clock import now
from relay.crypto.keys import derive
from relay.crypto.signing import HeadSigner, SignatureError
from relay.store.database import Database
from relay.store.query import Query
from relay.store.tables import audit_events, audit_head, signed_heads
from relay.store.writer import StoreUnavailable, Tx

SIGN_SECONDS: Final = 60.0
KEY_LABEL: Final = "audit head signing"

_EXISTS: Final = Query(select(signed_heads.c.size).where(signed_heads.c.size == bindparam("s")))
_INSERT: Final = Query(insert(signed_heads))

log = logging.getLogger("relay.audit.head")


def head_signer(secret_key: bytes, installation_id: str) -> HeadSigner:
    """Return the key that signs this installation's heads; it goes by the log's name, its origin."""
    return HeadSigner(derive(secret_key, KEY_LABEL), f"relay/{installation_id}")


class HeadContradicted(Exception):
    """The log is not a continuation of what was signed before: signing it would cover up a rewriting."""


class HeadKeeper:
    """Signs heads with a key that is not in the database, stores them and writes them to the log.

    Several replicas may sign at once: the first head of a size is kept.
    """

    def __init__(self, database: Database, keys: HeadKeys) -> None:
        self.keys: Final = keys
        self._database = database
        self._signed: tuple[int, str] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def signer(self) -> HeadSigner:
        """The key that signs now."""
        return self.keys.signer

    async def start(self) -> None:
        """Sign the present head and go on each minute."""
        await self._try()
        self._task = asyncio.create_task(self._each_minute(), name="audit-heads")

    async def stop(self) -> None:
        """Stop, and sign the last head; to be called while the database is still open."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._try()

    async def sign_now(self) -> str | None:
        """Sign the head if it moved, and return the note that is signed over it; None for an empty log.

        :class:`HeadContradicted` when the last head signed is no longer part of the log; then nothing is signed.
        :class:`~relay.store.writer.StoreUnavailable` when the database cannot be read or written.
        """
        size, head = await self._head()
        if size == 0 and head == GENESIS and await self._last() is None:
            return None
        stored = await self._agree_with_the_past(size, head)
        if stored is not None:
            return stored
        signer = self.signer
        note = sign_head(signer, size, head)
        await self._store(size, note, signer)
        self._signed = (size, head)
        log.info("signed the audit head of %d events: %s", size, as_line(note))
        return note

    async def _each_minute(self) -> None:
        while True:
            await asyncio.sleep(SIGN_SECONDS)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.sign_now()
        except HeadContradicted as error:
            log.critical("the audit head was not signed: %s", error)
        except StoreUnavailable as error:
            log.warning("the audit head could not be signed now: %s", error)
        except Exception as error:  # a defect in one round must not end all signing
            log.error("signing the audit head broke", exc_info=error)

    async def _head(self) -> tuple[int, str]:
        """Return size and hash of the log; the head row must name the last row there is."""
        row = await self._database.reader.one(
            select(audit_head.c.size, audit_head.c.hash, audit_events.c.hash)
            .select_from(audit_head.outerjoin(audit_events, audit_events.c.seq == audit_head.c.size))
            .where(audit_head.c.one == 1)
        )
        if row is None or row[1] != (row[2] if row[0] else GENESIS):
            raise HeadContradicted("the head of the log and its last event disagree")
        return int(row[0]), str(row[1])

    async def _agree_with_the_past(self, size: int, head: str) -> str | None:
        """Refuse a log that does not continue what was signed; return the stored note when nothing was added since."""
        stored = await self._last()
        for past in (self._signed, stored and stored[:2]):
            if past is not None and past != (size, head) and not await self._holds(*past):
                raise HeadContradicted(f"the log no longer holds the {past[0]} events that were signed")
        return stored[2] if stored is not None and stored[:2] == (size, head) else None

    async def _last(self) -> tuple[int, str, str] | None:
        """Return size, hash and note of the newest stored head, if this key signed it or one that it vouches for."""
        row = await self._database.reader.one(
            select(signed_heads.c.size, signed_heads.c.note).order_by(signed_heads.c.size.desc()).limit(1)
        )
        if row is None:
            return None
        try:
            found = check_note(row[1], self.keys.trust().keys_for(row[0]))
        except SignatureError as error:
            log.warning("the newest stored head does not verify with the keys of this log: %s", error)
            return None
        return found.size, found.root.hex(), str(row[1])

    async def _holds(self, size: int, head: str) -> bool:
        row = await self._database.reader.one(select(audit_events.c.hash).where(audit_events.c.seq == size))
        return row is not None and row[0] == head

    async def _store(self, size: int, note: str, signer: HeadSigner) -> None:
        signed_at = now()

        def unit(tx: Tx) -> None:
            if not self.keys.may_store(tx, signer):
                raise StoreUnavailable("the key of the log's heads has just changed")
            if tx.one(_EXISTS, s=size) is None:
                tx.run(_INSERT, size=size, note=note, signed_at=signed_at)

        await self._database.writer.run(unit)
