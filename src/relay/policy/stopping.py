"""Cancelling what waits behind a stop, a bounded number in each transaction."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

from relay.audit import cancelling
from relay.catalog import Catalog
from relay.core.clock import iso
from relay.policy.stops import named, problem_of
from relay.store.cache import GenerationCache
from relay.store.database import Database
from relay.store.kill_switch import EVERYWHERE, Stop, descendants, read_all_stops, workspace_ids
from relay.store.writer import StoreUnavailable, Tx

SWEEP_SECONDS: Final = 5.0
_PAGE: Final = 200

log = logging.getLogger("relay.policy")


class Stopping:
    """Ends what waits for a person, for its time or for its turn where it is stopped.

    Whoever turns the switch on does it at once. A server looks again every few seconds, so that what is left by a
    process that died meanwhile, or began to wait at that very moment, is cancelled too.
    """

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog
        self._on: GenerationCache[list[Stop]] = GenerationCache(database.generation)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say in the log what is stopped, cancel what waits behind it, and keep doing so. For a server or a worker."""
        for stop in await self._stops():
            log.warning(
                "the kill switch is on: %s%s is stopped since %s",
                named(stop),
                f" of workspace {stop.workspace_id}" if stop.workspace_id not in (EVERYWHERE, stop.subject) else "",
                iso(stop.since),
            )
        self._task = asyncio.create_task(self._forever(), name="kill-switch")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self) -> int:
        """Cancel what waits behind every stop; return how much it was."""
        return sum([await self.cancel(stop) for stop in await self._stops()])

    async def cancel(self, stop: Stop) -> int:
        """Cancel what waits behind one stop; return how many attempts and runs it was."""
        actions = self._actions(stop)
        total = 0
        async for workspace in self._workspaces(stop):
            principals = None
            if stop.kind == "key":
                principals = await descendants(self._database.reader, workspace, stop.subject)
            while (ended := await self._cancel_some(stop, workspace, principals, actions)) > 0:
                total += ended
        return total

    async def _cancel_some(
        self, stop: Stop, workspace: str, principals: Sequence[str] | None, actions: Sequence[str] | None
    ) -> int:
        return await self._database.writer.run(lambda tx: cancel_some(tx, stop, workspace, principals, actions))

    async def _workspaces(self, stop: Stop) -> AsyncIterator[str]:
        if stop.workspace_id != EVERYWHERE:
            yield stop.workspace_id
            return
        after = ""
        while page := await workspace_ids(self._database.reader, after, _PAGE):
            for workspace in page:
                yield workspace
            after = page[-1]

    def _actions(self, stop: Stop) -> list[str] | None:
        if stop.kind == "action":
            return [stop.subject]
        if stop.kind == "connector":
            return [spec.name for spec in self._catalog if spec.connector == stop.subject]
        return None

    async def _stops(self) -> list[Stop]:
        found = self._on.get("")
        if found is None:
            generation = self._database.generation.current()
            found = await read_all_stops(self._database.reader)
            self._on.put("", found, generation)
        return found

    async def _forever(self) -> None:
        while True:
            try:
                await self.once()
            except StoreUnavailable as error:
                log.warning("what waits behind the kill switch cannot be cancelled yet: %s", error)
            except Exception as error:  # a defect in one look must not end all looking
                log.error("cancelling what waits behind the kill switch failed", exc_info=error)
            await asyncio.sleep(SWEEP_SECONDS)


def cancel_some(
    tx: Tx, stop: Stop, workspace: str, principals: Collection[str] | None, actions: Collection[str] | None
) -> int:
    """Cancel some attempts and runs of a workspace that wait; return how many it was, 0 when none is left."""
    return cancelling.cancel_some(
        tx,
        workspace,
        principals=principals,
        actions=actions,
        tag="policy:kill_switch:cancelled",
        code="stopped",
        detail=problem_of(stop).detail,
    )
