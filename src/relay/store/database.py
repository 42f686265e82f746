"""One open database: the writer, the reader and the generation that caches follow."""

import asyncio
import contextlib

from relay.store.generation import Generation, poll
from relay.store.reader import Reader, postgres_engine, sqlite_engine
from relay.store.target import Target
from relay.store.writer import Finish, Writer
from relay.telemetry.metrics import Metrics


class Database:
    """Opened by :meth:`start`, closed by :meth:`stop`, which writes what was accepted first."""

    def __init__(self, target: Target, finish: Finish, metrics: Metrics | None = None) -> None:
        self.target = target
        self.generation = Generation()
        self.writer: Writer
        if target.kind == "sqlite":
            from relay.store.sqlite import SqliteWriter

            assert target.path is not None
            self.writer = SqliteWriter(target.path, finish, self.generation.changed, metrics)
            self.reader = Reader(sqlite_engine(target.path))
        else:
            from relay.store.postgres import PostgresWriter

            self.writer = PostgresWriter(target.conninfo, finish, metrics)
            self.reader = Reader(postgres_engine(target.url))
        self._poll: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect; :class:`~relay.store.writer.StoreUnavailable` when the database does not answer."""
        await self.writer.start()
        if self.target.kind == "postgres":
            self._poll = asyncio.create_task(poll(self.generation, self.reader), name="generation-poll")

    async def stop(self) -> None:
        """Finish the accepted work and disconnect."""
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll
        await self.writer.stop()
        await self.reader.close()
