"""Lines of API keys: a key, the one that took its place by rotation, and so on. Each line is one caller."""

from typing import Final

from relay.core.principal import Principal
from relay.store.api_keys import first_of_line
from relay.store.reader import Reader

_KNOWN: Final = 10_000


class Lines:
    """Says which line a principal stands in. What a key has followed never changes, so an answer holds for ever.

    Only an API key stands in one; a child token does not, since it is not rotated.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[str, str] = {}

    async def first(self, principal: Principal) -> str:
        """Return the id of the line's first key, and without a line the principal's own.

        :class:`~relay.store.writer.StoreUnavailable` when the database is needed and does not answer.
        """
        if principal.auth_method != "api_key" or principal.parent_id is not None:
            return principal.id
        known = self._known.get(principal.id)
        if known is None:
            known = await first_of_line(self._reader, principal.workspace_id, principal.id)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[principal.id] = known
        return known

    async def owners(self, principal: Principal) -> tuple[str, ...]:
        """Return the principal's own id, and that of the first key of its line where it is another."""
        return tuple(dict.fromkeys((principal.id, await self.first(principal))))
