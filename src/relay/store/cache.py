"""A bounded cache that is void as soon as what it holds may have changed."""

from typing import Final, Generic, TypeVar

from relay.store.generation import Generation

MAX_ENTRIES: Final = 10_000

V = TypeVar("V")


class GenerationCache(Generic[V]):
    """Maps text to values found under the generation that is still current; the oldest entry makes room.

    Nothing is returned while the generation is unknown (:meth:`Generation.current` is None). A value must be put with
    the generation that was read *before* it was looked up: a change in between has moved the generation on, and the
    value is dropped.
    """

    def __init__(self, generation: Generation, max_entries: int = MAX_ENTRIES) -> None:
        self._generation = generation
        self._max_entries = max_entries
        self._filled_under: int | None = None
        self._entries: dict[str, V] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> V | None:
        """Return the value, or None when it is not known to hold now."""
        generation = self._generation.current()
        if generation is None or generation != self._filled_under:
            return None
        return self._entries.get(key)

    def put(self, key: str, value: V, generation: int | None) -> None:
        """Keep ``value`` if ``generation`` is known and still current."""
        if generation is None or generation != self._generation.current():
            return
        if generation != self._filled_under:
            self._entries.clear()
            self._filled_under = generation
        if len(self._entries) >= self._max_entries and key not in self._entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = value
