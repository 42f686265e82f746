"""Recipients and hosts are remembered under pseudonyms; each workspace has a key of its own, sealed."""

from collections.abc import Callable
from functools import partial
from typing import Final

from relay.crypto.pseudonym import new_pseudonym_key, pseudonym
from relay.store.cache import GenerationCache
from relay.store.database import Database
from relay.store.vault import Vault
from relay.store.writer import StoreUnavailable

PURPOSE: Final = "pseudonyms"


class Pseudonyms:
    """Gives out each workspace's pseudonyms; its key is made when it is first wanted, once for all processes."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._keys: GenerationCache[bytes] = GenerationCache(database.generation)

    async def of(self, workspace_id: str) -> Callable[[str, str], str]:
        """Return the function from a kind and a name to the pseudonym within a workspace."""
        return partial(pseudonym, await self._key(workspace_id))

    async def _key(self, workspace_id: str) -> bytes:
        key = self._keys.get(workspace_id)
        if key is not None:
            return key
        generation = self._database.generation.current()
        key = await self._open(workspace_id)
        if key is None:
            sealed = self._vault.seal(
                new_pseudonym_key(), workspace=workspace_id, purpose=PURPOSE, record_id=workspace_id, expires_at=None
            )
            await self._database.writer.run(lambda tx: self._vault.put_if_absent(tx, sealed))
            key = await self._open(workspace_id)
        if key is None:
            raise StoreUnavailable("the key of the workspace's pseudonyms is gone")
        self._keys.put(workspace_id, key, generation)
        return key

    async def _open(self, workspace_id: str) -> bytes | None:
        return await self._vault.open(workspace=workspace_id, purpose=PURPOSE, record_id=workspace_id)
