"""Who waits, within this process, to hear that a run has changed."""

import asyncio
import contextlib
from collections.abc import Iterator


class Changes:
    """Wakes whoever watches a run. Other processes learn of a change by looking into the table."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}

    @contextlib.contextmanager
    def watch(self, run_id: str) -> Iterator[asyncio.Event]:
        """Give an event that is set at each change of the run; the watcher clears it before it looks."""
        woken = asyncio.Event()
        watchers = self._watchers.setdefault(run_id, set())
        watchers.add(woken)
        try:
            yield woken
        finally:
            watchers.discard(woken)
            if not watchers and self._watchers.get(run_id) is watchers:
                del self._watchers[run_id]

    def notify(self, run_id: str) -> None:
        """Wake the watchers of a run."""
        for woken in self._watchers.get(run_id, ()):
            woken.set()

    def notify_all(self) -> None:
        """Wake everybody."""
        for run_id in list(self._watchers):
            self.notify(run_id)
