"""From the text of a key to a principal: parse, hash, look up, each only if the one before allows it."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from relay.core.clock import now
from relay.core.networks import allow_list
from relay.core.principal import Principal
from relay.core.problem import Unauthenticated
from relay.crypto.api_key import parse_api_key
from relay.identity.credentials import INVALID_KEY
from relay.identity.last_use import LastUse
from relay.identity.peppers import Peppers
from relay.store.api_keys import ApiKeyRecord, FoundKey, find_by_hash, find_by_id
from relay.store.cache import GenerationCache
from relay.store.database import Database
from relay.store.workspaces import allowed_networks


def _nobody(*_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Alarms:
    """Who hears of keys that must not be used: of each use of a revoked one, and of a honey key with the caller's
    address. What they do must neither wait nor raise: a caller would learn something from it.
    """

    revoked: Callable[[ApiKeyRecord], None] = field(default=_nobody)
    honey: Callable[[ApiKeyRecord, str], None] = field(default=_nobody)


@dataclass(frozen=True, slots=True)
class _Living:
    principal: Principal
    expires_at: int


class Authenticator:
    """Answers who holds a key, and whether a credential is still alive.

    What has been found is kept in memory, by hash and by id, as long as the database's generation stands still; an
    expiry is checked at each use all the same. While the generation is unknown every answer comes from the database.
    """

    def __init__(
        self,
        database: Database,
        peppers: Peppers,
        last_use: LastUse,
        standing: Iterable[Principal],
        alarms: Alarms,
    ) -> None:
        self._database = database
        self._peppers = peppers
        self._noted = last_use
        self._alarms = alarms
        self._standing = {principal.credential_id: principal for principal in standing}
        self._by_hash: GenerationCache[_Living] = GenerationCache(database.generation)
        self._by_id: GenerationCache[_Living] = GenerationCache(database.generation)

    async def authenticate(self, key_text: str, client: str = "") -> Principal | None:
        """Return the principal of a live key, None for any other text; which of the reasons it was is never said.

        A key in quarantine is refused with :class:`~relay.core.problem.Unauthenticated`, in the words for a key that
        is not valid: its ``reason`` is for the count of failures. ``client`` is the caller's address, empty when
        unknown. A text that is no well-formed key never reaches the database.
        :class:`~relay.store.writer.StoreUnavailable` when the database is needed and does not answer.
        """
        moment = now()
        key_hash = self._peppers.newest_hash(key_text)
        living = self._by_hash.get(key_hash)
        if living is not None:
            return self._used(living, moment)
        if parse_api_key(key_text) is None:
            return None
        found = await self._look_up(key_text, client)
        return None if found is None else self._used(found, moment)

    async def reload(self, credential_id: str) -> Principal | None:
        """Return the principal of a credential if it is still alive, None when it is revoked, expired or unknown.

        Principals that need no credential are alive where they were allowed at start, and nowhere else.
        """
        standing = self._standing.get(credential_id)
        if standing is not None:
            return await self._confined(standing)
        living = self._by_id.get(credential_id)
        if living is None:
            generation = self._database.generation.current()
            living = _living(await find_by_id(self._database.reader, credential_id))
            if living is not None:
                self._by_id.put(credential_id, living, generation)
        return living.principal if living is not None and now() < living.expires_at else None

    async def _confined(self, standing: Principal) -> Principal:
        """Return a principal that has no row here; the networks of its workspace bind its key as any other."""
        if standing.auth_method != "chat_key":
            return standing
        living = self._by_id.get(standing.credential_id)
        if living is None:
            generation = self._database.generation.current()
            networks = await allowed_networks(self._database.reader, standing.workspace_id) or ()
            living = _Living(replace(standing, allowed_from=allow_list(networks, ())), sys.maxsize)
            self._by_id.put(standing.credential_id, living, generation)
        return living.principal

    async def _look_up(self, key_text: str, client: str) -> _Living | None:
        # Read before the row is: a revocation in between moves it on, and the entry is not kept.
        generation = self._database.generation.current()
        await self._peppers.refresh()
        hashes = self._peppers.hashes(key_text)
        found = await find_by_hash(self._database.reader, hashes)
        if found is not None:
            self._sound(found.record, client)
            if _is_quarantined(found.record):
                raise Unauthenticated(INVALID_KEY, reason="quarantined")
        living = _living(found)
        if living is not None:
            # Under the newest pepper's hash, whichever pepper it was found by: that one is tried first.
            self._by_hash.put(hashes[0], living, generation)
            self._noted.rehashed |= self._peppers.rehash(living.principal.credential_id, hashes)
        return living

    def _sound(self, record: ApiKeyRecord, client: str) -> None:
        if record.revoked_at is not None:
            self._alarms.revoked(record)
        elif record.honey:
            self._alarms.honey(record, client)

    def _used(self, living: _Living, moment: int) -> Principal | None:
        if moment >= living.expires_at:
            return None
        principal = living.principal
        self._noted.noted[principal.credential_id] = moment
        return principal


def _is_quarantined(record: ApiKeyRecord) -> bool:
    """Say whether quarantine is all that keeps a key from being used. A honey key is like one that does not exist."""
    out_of_use = record.quarantined_at is not None and not record.honey
    return out_of_use and record.revoked_at is None and now() < record.expires_at


def _living(found: FoundKey | None) -> _Living | None:
    if found is None or found.record.honey or not found.lives(now()):
        return None
    return _Living(principal_of(found), found.ends_at)


def principal_of(found: FoundKey) -> Principal:
    """Return the principal that a key stands for; whether the key is alive is not looked at."""
    record, parent = found.record, found.parent
    return Principal(
        id=record.id,
        kind=record.kind,
        workspace_id=record.workspace_id,
        scopes=found.scopes,
        credential_id=record.id,
        made_by=record.made_by,
        auth_method="api_key",
        allowed_from=allow_list(
            found.workspace_networks, record.allowed_networks, () if parent is None else parent.allowed_networks
        ),
        parent_id=record.parent_id,
        actions=frozenset(record.allowed_actions) or None,
    )
