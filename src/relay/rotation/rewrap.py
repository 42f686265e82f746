"""Re-wrapping every envelope under the current key while others read, write and purge: bounded, and safe to repeat."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from relay.crypto.envelope import EnvelopeError, Envelopes
from relay.rotation.places import PLACES, Place, Sealing
from relay.store.database import Database
from relay.store.writer import Tx

PAGE_ROWS: Final = 1000
BATCH_ROWS: Final = 50
MAX_NAMED: Final = 20


@dataclass(slots=True)
class Rewrapped:
    """What a pass over every envelope came to.

    ``skipped`` rows changed or were purged meanwhile. ``broken`` ones do not open with any key that is here; the first
    are named in ``examples``.
    """

    seen: int = 0
    rewrapped: int = 0
    skipped: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list)

    def cannot(self, sealing: Sealing, error: EnvelopeError) -> None:
        """Count an envelope that does not open."""
        self.broken += 1
        if len(self.examples) < MAX_NAMED:
            self.examples.append(f"{sealing.purpose} {sealing.record}: {error}")


async def rewrap_all(database: Database, envelopes: Envelopes, progress: Callable[[Rewrapped], None]) -> Rewrapped:
    """Walk every place once, and seal the data key of each envelope under the current key where it is another's.

    Every transaction changes at most :data:`BATCH_ROWS` rows, each by compare-and-set. What is sealed while this runs
    and lies behind the walk is found by the next one.
    :class:`~relay.store.writer.StoreUnavailable` when the database does not answer; what was done stays done.
    """
    done = Rewrapped()
    for place in PLACES:
        after: tuple[str, ...] | None = None
        while True:
            rows = [place.read(row) for row in await database.reader.all(place.page(after, PAGE_ROWS))]
            done.seen += len(rows)
            stale = [row for row in rows if row.kek != envelopes.current]
            for start in range(0, len(stale), BATCH_ROWS):
                await _batch(database, envelopes, place, stale[start : start + BATCH_ROWS], done)
                progress(done)
                await asyncio.sleep(0)  # a server that rotates by itself answers between batches
            if len(rows) < PAGE_ROWS:
                break
            after = rows[-1].key
    return done


async def _batch(
    database: Database, envelopes: Envelopes, place: Place, stale: Sequence[Sealing], done: Rewrapped
) -> None:
    found = await database.reader.all(place.bodies([sealing.key for sealing in stale]))
    bodies = {tuple(row[:-1]): bytes(row[-1]) for row in found}
    changes: list[dict[str, Any]] = []
    for sealing in stale:
        body = bodies.get(sealing.key)
        if body is None:
            done.skipped += 1
            continue
        try:
            new = envelopes.rewrap(body, workspace=sealing.workspace, purpose=sealing.purpose, record=sealing.record)
        except EnvelopeError as error:
            done.cannot(sealing, error)
            continue
        changes.append(place.changes(sealing, body, new))

    def unit(tx: Tx) -> int:
        return sum(tx.run(place.replacement(), **change) for change in changes)

    if changes:
        written = await database.writer.run(unit)
        done.rewrapped += written
        done.skipped += len(changes) - written
