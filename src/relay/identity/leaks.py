"""Keys that have leaked: whoever can name a live key holds it, and that is proof enough to end it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from relay.audit.record import event
from relay.audit.violations import violation
from relay.core.clock import now
from relay.crypto.api_key import parse_api_key
from relay.identity.issue import Issuer
from relay.identity.leak_report import Leaked
from relay.identity.peppers import Peppers
from relay.store.api_keys import ApiKeyRecord, ApiKeyRepository, find_all_by_hash
from relay.store.writer import StoreUnavailable, Tx

TRIES: Final = 5
RETRY_SECONDS: Final = 1.0
MOST_AT_ONCE: Final = 200

log = logging.getLogger("relay.identity")


@dataclass(frozen=True, slots=True)
class Leak:
    """A key that was reported. ``revoked`` says that this report ended it; else it had ended before."""

    record: ApiKeyRecord
    revoked: bool


class Leaks:
    """Ends leaked keys, with their child tokens. Successors are left: they are other secrets, which nobody has shown.

    What a leaked key was allowed to do it may have done: ``made_by`` leads to the keys that it made.
    """

    def __init__(self, issuer: Issuer, peppers: Peppers) -> None:
        self._issuer = issuer
        self._peppers = peppers
        self._ending: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Wait for what is being ended."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def revoke_leaked(
        self,
        text: str,
        source: str,
        *,
        principal: str = "",
        request_id: str = "",
        where: Mapping[str, str] | None = None,
    ) -> Leak | None:
        """End the key that ``text`` is, if it is one; None for any other text, without a look into the database.

        ``source`` says in a word who reports it, ``where`` more; both are kept in the erasable details of the audit
        event. The key is ended, here, when this returns.
        """
        found = await self._found([text])
        record = found.get(text)
        if record is None:
            return None
        return await self._end(record, source, principal, request_id, where or {})

    async def living_id(self, text: str) -> str | None:
        """Return the id of the key that ``text`` is, if it has not ended; None for any other text."""
        record = (await self._found([text])).get(text)
        ended = record is None or record.revoked_at is not None or now() >= record.expires_at
        return None if record is None or ended else record.id

    async def report(self, leaked: Sequence[Leaked], source: str, *, request_id: str) -> None:
        """End what is reported by somebody who must not learn which of these texts were keys.

        Looking takes one statement, however many of them there are; what is found is ended after this has returned.
        :class:`~relay.store.writer.StoreUnavailable` when nothing can be looked up.
        """
        found = await self._found([each.token for each in leaked])
        for each in leaked:
            record = found.get(each.token)
            if record is None or len(self._ending) >= MOST_AT_ONCE:
                continue
            task = asyncio.create_task(self._end_surely(record, source, request_id, each.where), name="keys-leaked")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _found(self, texts: Sequence[str]) -> dict[str, ApiKeyRecord]:
        """Return the keys among these texts, ended ones included."""
        await self._peppers.refresh()
        texts_of = {
            key_hash: text
            for text in texts
            if parse_api_key(text) is not None
            for key_hash in self._peppers.hashes(text)
        }
        found = await find_all_by_hash(self._issuer.database.reader, list(texts_of))
        return {texts_of[key_hash]: record for key_hash, record in found.items()}

    async def _end_surely(self, record: ApiKeyRecord, source: str, request_id: str, where: Mapping[str, str]) -> None:
        for left in reversed(range(TRIES)):
            try:
                await self._end(record, source, "", request_id, where)
                return
            except StoreUnavailable as error:
                log.error("the leaked key %s could not be revoked (%d tries left): %s", record.id, left, error)
            if left:
                await asyncio.sleep(RETRY_SECONDS)

    async def _end(
        self, record: ApiKeyRecord, source: str, principal: str, request_id: str, where: Mapping[str, str]
    ) -> Leak:
        unit = partial(_end_leaked, record=record, source=source, who=(principal, request_id), where=dict(where))
        return await self._issuer.change(unit)


def _end_leaked(tx: Tx, *, record: ApiKeyRecord, source: str, who: tuple[str, str], where: dict[str, str]) -> Leak:
    moment, (principal, request_id) = now(), who
    keys = ApiKeyRepository(tx, record.workspace_id)
    key = keys.find(record.id)
    if key is None or key.revoked_at is not None or moment >= key.expires_at:
        return Leak(key or record, revoked=False)
    keys.revoke(key.id, moment)
    tx.record(
        violation(
            "key_leaked",
            workspace_id=key.workspace_id,
            principal=principal,
            request_id=request_id,
            target=key.id,
            details={**where, "reported_by": source},
        )
    )
    tx.record(
        event(
            "identity:key:revoked",
            workspace_id=key.workspace_id,
            principal=principal,
            request_id=request_id,
            target=key.id,
            details={"reason": "leaked"},
        )
    )
    return Leak(replace(key, revoked_at=moment), revoked=True)
