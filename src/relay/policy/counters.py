"""What policies may know of how much a key has done: ``context.counters``."""

from typing import Protocol

from relay.store.attempt_counts import Counts


class Counters(Protocol):
    """Counts what a principal has attempted. An implementation that cannot count must raise, never return less."""

    async def counted(
        self, workspace_id: str, principal_id: str, action: str, *, at: int, asked_at: int | None = None
    ) -> Counts:
        """Return what it and its child tokens have attempted at ``at``.

        With ``asked_at``, what it had attempted before that moment.
        """
        ...
