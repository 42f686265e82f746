"""One server per SQLite database: a lock that the operating system drops with the process, however it ends."""

import fcntl
import os
from pathlib import Path


class AlreadyRunning(Exception):
    """Another server holds this database."""


class ServerLock:
    """An exclusive advisory lock on a file beside the database. Commands do not take it; servers do."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".server-lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or :class:`AlreadyRunning`."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyRunning(
                f"another relay server uses {self._path.parent}; stop it, or choose another --data-dir"
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
