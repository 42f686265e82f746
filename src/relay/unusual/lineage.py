"""Whose habits a key has: its own, its predecessor's where it was rotated, its parent's where it is a child token."""

from collections.abc import Collection
from typing import Final

from relay.store.reader import Reader
from relay.store.unusual import parents_of, predecessors_of

MAX_KEPT: Final = 20_000
MAX_STEPS: Final = 200


class Lineage:
    """Finds the first key of a line. What was found never changes, so that it is kept in memory, up to a bound."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._before: dict[str, str | None] = {}

    async def firsts(self, key_ids: Collection[str]) -> dict[str, str]:
        """Return the first key of the line of each key; a key that does not exist any more is its own."""
        if len(self._before) > MAX_KEPT:
            self._before.clear()
        wanted = set(key_ids) - self._before.keys()
        for _ in range(MAX_STEPS):
            if not wanted:
                break
            await self._learn(wanted)
            wanted = {before for key in wanted if (before := self._before[key])} - self._before.keys()
        return {key: self._first(key) for key in key_ids}

    async def _learn(self, key_ids: set[str]) -> None:
        parents = await parents_of(self._reader, key_ids)
        orphans = [key for key in key_ids if parents.get(key) is None]
        rotated = await predecessors_of(self._reader, orphans)
        for key in key_ids:
            self._before[key] = parents.get(key) or rotated.get(key)

    def _first(self, key: str) -> str:
        for _ in range(MAX_STEPS):
            before = self._before.get(key)
            if before is None:
                break
            key = before
        return key
