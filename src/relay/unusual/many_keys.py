"""One block of addresses that tries many different keys that are not valid: a violation, once an hour."""

import asyncio
import logging
from collections import OrderedDict, deque
from typing import Final

from relay.audit.anonymous import address_block
from relay.audit.violations import violation
from relay.core.clock import HOUR, MINUTE, now
from relay.crypto.api_key import hash_api_key, new_pepper
from relay.store.database import Database
from relay.store.notices import first_time
from relay.store.writer import StoreUnavailable, Tx

WINDOW: Final = 10 * MINUTE
MAX_BLOCKS: Final = 2_000
MAX_AN_HOUR: Final = 20
"""How many blocks are reported an hour by one process: whoever has many of them must not fill the log."""
_FINGERPRINT: Final = 16

log = logging.getLogger("relay.unusual")


class ManyKeys:
    """Counts the distinct keys that were refused to each block (/24, IPv6 /48) within ten minutes.

    A key is remembered as a part of its HMAC under a key of this process alone, which is never stored. At most
    ``threshold`` keys of 2,000 blocks are remembered; then the block that was heard of least recently is forgotten.
    Each process counts for itself; several that see the same report it once an hour. 0 reports nothing.
    """

    def __init__(self, database: Database, threshold: int) -> None:
        self._database = database
        self._threshold = threshold
        self._secret = new_pepper()
        self._blocks: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._raised: dict[str, int] = {}
        self._lately: deque[int] = deque(maxlen=MAX_AN_HOUR)
        self._writing: set[asyncio.Task[None]] = set()

    def refused(self, key_text: str, client: str) -> None:
        """Take in that a key was not valid. Never waits or raises."""
        if not self._threshold:
            return
        at, block = now(), address_block(client)
        tried = self._blocks.setdefault(block, {})
        self._blocks.move_to_end(block)
        if len(self._blocks) > MAX_BLOCKS:
            self._blocks.popitem(last=False)
        fingerprint = hash_api_key(key_text, self._secret)[:_FINGERPRINT]
        tried.pop(fingerprint, None)
        tried[fingerprint] = at
        for old in [one for one, moment in tried.items() if moment <= at - WINDOW]:
            del tried[old]
        if len(tried) >= self._threshold:
            count = len(tried)
            del self._blocks[block]
            self._raise(block, count, at)

    async def stop(self) -> None:
        """Write what was found."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    def _raise(self, block: str, count: int, at: int) -> None:
        if self._raised.get(block) == at // HOUR:
            return
        if len(self._lately) == MAX_AN_HOUR and self._lately[0] > at - HOUR:
            log.warning("many keys from further blocks of addresses; %d were reported within an hour", MAX_AN_HOUR)
            return
        self._raised = {one: hour for one, hour in self._raised.items() if hour == at // HOUR}
        self._raised[block] = at // HOUR
        self._lately.append(at)
        task = asyncio.create_task(self._record(block, count, at), name="many-keys")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _record(self, block: str, count: int, at: int) -> None:
        draft = violation(
            "many_keys_one_address",
            workspace_id="",
            target="",
            details={"block": block, "keys": count, "minutes": WINDOW // MINUTE},
        )

        def unit(tx: Tx) -> None:
            if first_time(tx, "", f"many_keys:{block}:{at // HOUR}", (at // HOUR + 2) * HOUR):
                tx.record(draft)

        try:
            await self._database.writer.run(unit)
        except StoreUnavailable:
            self._raised.pop(block, None)
            log.warning("that one block of addresses tries many keys could not be recorded")
