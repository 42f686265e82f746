"""API keys as the rest of Relay knows them: who holds one, and everything that can be done to one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from relay.core.principal import Principal
from relay.crypto.api_key import KeyEnv
from relay.crypto.envelope import Envelopes
from relay.identity.authenticate import Alarms, Authenticator
from relay.identity.children import Children
from relay.identity.issue import Issuer
from relay.identity.last_use import LastUse
from relay.identity.leaks import Leaks
from relay.identity.peppers import Peppers
from relay.identity.quarantine import Quarantine
from relay.identity.restrict import Restrictor
from relay.identity.rules import invalid, is_key_id
from relay.store.api_keys import ApiKeyRecord, list_keys, list_keys_of_every_workspace
from relay.store.database import Database

MAX_PAGE: Final = 200
DEFAULT_PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Keys, newest first; ``next_cursor`` leads to older ones and is None at the end."""

    items: tuple[ApiKeyRecord, ...]
    next_cursor: str | None


class ApiKeys:
    """The keys of one database.

    ``env`` appears in the keys that are made here, for people and scanners; a key opens whatever database it was made
    in, whatever its name says.
    ``standing`` are the principals that need no credential here (the person ``dev``, where that mode is on), so that
    their runs go on. ``on_revoked`` hears of each use of a revoked key.
    :class:`~relay.store.writer.StoreUnavailable` from any method when the database does not answer.
    """

    def __init__(
        self,
        database: Database,
        envelopes: Envelopes,
        env: KeyEnv,
        *,
        standing: Iterable[Principal] = (),
        on_revoked: Callable[[ApiKeyRecord], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._peppers = Peppers(database, envelopes)
        self._last_use = LastUse(database.writer)
        self._issuer = Issuer(database, self._peppers, env)
        self._quarantine = Quarantine(self._issuer)
        self._leaks = Leaks(self._issuer, self._peppers)
        alarms = Alarms(on_revoked, self._quarantine.honey_key_used)
        self._authenticator = Authenticator(database, self._peppers, self._last_use, standing, alarms)
        self.authenticate: Final = self._authenticator.authenticate
        self.reload: Final = self._authenticator.reload
        self.create: Final = self._issuer.create
        self.first_key: Final = self._issuer.first_key
        self.rotate: Final = self._issuer.rotate
        self.revoke: Final = self._issuer.revoke
        self._restrictor = Restrictor(database.reader, self._issuer.change)
        self.workspace_networks: Final = self._restrictor.workspace_networks
        self.restrict_workspace: Final = self._restrictor.restrict_workspace
        self.restrict_key: Final = self._restrictor.restrict_key
        self.narrow_key: Final = self._restrictor.narrow_key
        self._children = Children(self._issuer)
        self.mint: Final = self._children.mint
        self.end_child: Final = self._children.end
        self.quarantine: Final = self._quarantine.impose
        self.release: Final = self._quarantine.release
        self.honey_action_used: Final = self._quarantine.honey_action_used
        self.revoke_leaked: Final = self._leaks.revoke_leaked
        self.report_leaks: Final = self._leaks.report
        self.living_id: Final = self._leaks.living_id

    async def start(self) -> None:
        """Read the peppers, making the first one if there is none, and begin to note the last use of keys.

        For a server, after the database has been started. A command that runs once need not call it.
        """
        await self._peppers.refresh()
        self._last_use.start()

    async def refresh_peppers(self) -> None:
        """Look keys up with the peppers that there are now."""
        await self._peppers.refresh()

    async def stop(self) -> None:
        """Write what is still in memory: last uses, alarms, the ends of leaked keys. Before the database is stopped."""
        await self._quarantine.stop()
        await self._leaks.stop()
        await self._last_use.stop()

    async def list(
        self, workspace: str, *, cursor: str | None = None, limit: int = DEFAULT_PAGE, parent: str | None = None
    ) -> KeyPage:
        """Return a page of the workspace's keys, ended ones included, without child tokens. ``limit`` is 1 to 200.

        With ``parent`` the child tokens of that key instead.
        """
        _require_page(cursor, limit)
        if parent is not None and not is_key_id(parent):
            raise invalid("/parent", "Not the id of a key.")
        found = await list_keys(self._database.reader, workspace, cursor, limit + 1, parent=parent)
        return _page(found, limit)

    async def list_everywhere(self, *, cursor: str | None = None, limit: int = DEFAULT_PAGE) -> KeyPage:
        """As :meth:`list`, across workspaces. For the operator's command line alone."""
        _require_page(cursor, limit)
        found = await list_keys_of_every_workspace(self._database.reader, cursor, limit + 1)
        return _page(found, limit)


def _require_page(cursor: str | None, limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise invalid("/limit", f"From 1 to {MAX_PAGE}.")
    if cursor is not None and not is_key_id(cursor):
        raise invalid("/cursor", "Not a cursor that an earlier page gave.")


def _page(found: list[ApiKeyRecord], limit: int) -> KeyPage:
    items = tuple(found[:limit])
    return KeyPage(items, items[-1].id if len(found) > limit else None)
