"""Keys for tests: a database with its installation row, and everything that identity builds on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import event

from relay.audit.record import Recorder
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.principal import SCOPES, KeyKind, Principal
from relay.crypto.envelope import Envelopes
from relay.identity.api_keys import ApiKeys
from relay.identity.operator import operator
from relay.store.api_keys import ApiKeyRecord
from relay.store.database import Database
from relay.store.installation import Installation, ensure_installation
from relay.store.target import Target

KEK = b"k" * 32
REQUEST = "req_test_0001"


@dataclass
class Keyring:
    """One process's view of a database of keys. ``statements`` are those that its reader has sent."""

    database: Database
    envelopes: Envelopes
    api_keys: ApiKeys
    statements: list[str] = field(default_factory=list)

    async def make(
        self,
        *scopes: str,
        workspace: str = "default",
        kind: KeyKind = "agent",
        days: int = 90,
        name: str = "",
        maker: Principal | None = None,
    ) -> tuple[ApiKeyRecord, str]:
        return await self.api_keys.create(
            maker or operator(),
            workspace=workspace,
            kind=kind,
            scopes=scopes or SCOPES,
            name=name,
            expires_days=days,
            request_id=REQUEST,
        )

    async def principal(self, *scopes: str, workspace: str = "default", kind: KeyKind = "agent") -> Principal:
        """Return the principal of a new key."""
        _, text = await self.make(*scopes, workspace=workspace, kind=kind)
        found = await self.api_keys.authenticate(text)
        assert found is not None
        return found


@asynccontextmanager
async def open_keyring(target: Target) -> AsyncIterator[Keyring]:
    """Open the database as a process of its own would."""
    envelopes = Envelopes.of(KEK)
    database = Database(target, Recorder(envelopes).finish)
    await database.start()
    fresh = Installation(new_id("ins"), "0" * 32, "0" * 32)
    await database.writer.run(lambda tx: ensure_installation(tx, fresh, now()))
    api_keys = ApiKeys(database, envelopes, "test")
    ring = Keyring(database, envelopes, api_keys)
    event.listen(
        database.reader._engine.sync_engine,
        "before_cursor_execute",
        lambda _conn, _cursor, statement, *_: ring.statements.append(statement),
    )
    try:
        await api_keys.start()
        yield ring
    finally:
        await api_keys.stop()
        await database.stop()
