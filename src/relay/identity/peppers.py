"""The server's secret ingredient of every stored key hash: sealed in the database, opened in memory."""

from typing import Final

from relay.core.clock import now
from relay.core.ids import new_id
from relay.crypto.api_key import hash_api_key, new_pepper
from relay.crypto.envelope import Envelopes
from relay.store.database import Database
from relay.store.peppers import Rehash, add_first_pepper, live_peppers

MAX_LIVE: Final = 2
PURPOSE: Final = "pepper"


class Peppers:
    """The live peppers, at most two: the current one hashes new keys, each is tried when a key is looked up.

    A pepper is 32 random bytes, made once for an installation. :class:`~relay.crypto.envelope.EnvelopeError` when the
    key-encryption key at hand is not the one that sealed it; then no key can be looked up and start-up must fail.
    """

    def __init__(self, database: Database, envelopes: Envelopes) -> None:
        self._database = database
        self._envelopes = envelopes
        self._live: tuple[tuple[str, bytes], ...] = ()
        self._replaced = False
        self._read_under: int | None = None

    async def refresh(self) -> None:
        """Read the peppers if they may have changed since they were read; make the first one if there is none."""
        generation = self._database.generation.current()
        if self._live and generation is not None and generation == self._read_under:
            return
        live = await self._read()
        if not live:
            await self._make_first()
            live = await self._read()
        self._live, self._read_under = live, generation

    def newest_hash(self, key_text: str) -> str:
        """Return the hash of a key under the current pepper; empty before :meth:`refresh`."""
        return hash_api_key(key_text, self._live[0][1]) if self._live else ""

    def hashes(self, key_text: str) -> list[str]:
        """Return the hash of a key under each live pepper, the current one first; empty before :meth:`refresh`."""
        return [hash_api_key(key_text, pepper) for _, pepper in self._live]

    def rehash(self, key_id: str, hashes: list[str]) -> dict[str, Rehash]:
        """Return the change that puts a key under the current pepper if it still is under the other; often none."""
        if not self._replaced or len(hashes) < MAX_LIVE:
            return {}
        return {key_id: Rehash(key_id, before=hashes[1], after=hashes[0], pepper_id=self._live[0][0])}

    def for_storage(self, key_text: str) -> tuple[str, str]:
        """Return the hash of a new key and the id of its pepper. To be called after :meth:`refresh`."""
        pepper_id, pepper = self._live[0]
        return hash_api_key(key_text, pepper), pepper_id

    async def _read(self) -> tuple[tuple[str, bytes], ...]:
        rows = await live_peppers(self._database.reader, MAX_LIVE)
        # While the second one is still to come, keys must not be moved to the one that is to go.
        self._replaced = len(rows) == MAX_LIVE and all(row.used for row in rows)
        return tuple(
            (row.id, self._envelopes.open(row.envelope, workspace="", purpose=PURPOSE, record=row.id)) for row in rows
        )

    async def _make_first(self) -> None:
        pepper_id, moment = new_id("pep"), now()
        envelope = self._envelopes.seal(new_pepper(), workspace="", purpose=PURPOSE, record=pepper_id)
        await self._database.writer.run(lambda tx: add_first_pepper(tx, pepper_id, envelope, moment))
