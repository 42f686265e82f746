"""A database with workspaces, their policies and what was decided by them, as one process sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from relay.catalog import ActionSpec
from relay.core.action import Decision, Step
from relay.core.circumstances import Circumstances
from relay.core.clock import DAY, now
from relay.core.principal import Principal
from relay.policy.check import CatalogSchema
from relay.policy.engine import CedarPolicy
from relay.policy.recorded import Recorded
from relay.policy.replay import Flip, Replayed, Replays
from relay.policy.versions import PolicyVersions
from relay.store.attempt_counts import AttemptCounts
from relay.store.target import Target
from relay.store.vault import Vault
from tests.keyring import REQUEST, Keyring, open_keyring
from tests.policy_kit import REACH, SCHEMA

ALL = '@id("all") permit (principal, action, resource);'
NONE = '@id("none") forbid (principal, action, resource);'
READS = '@id("reads") permit (principal, action in Relay::Action::"effect:read", resource);'


@dataclass
class PolicyWorld:
    """One process's view."""

    ring: Keyring
    versions: PolicyVersions
    replays: Replays
    policy: CedarPolicy
    recorded: Recorded

    @property
    def database(self):
        return self.ring.database

    async def person(self, workspace: str = "default") -> Principal:
        return await self.ring.principal("developer", "policies:manage", workspace=workspace, kind="person")

    async def put(self, author: Principal, text: str, **options: Any) -> int:
        row, _ = await self.versions.put(author, author.workspace_id, text, request_id=REQUEST, **options)
        return row.version

    async def activate(self, author: Principal, version: int, **options: Any) -> None:
        await self.versions.activate(author, author.workspace_id, version, request_id=REQUEST, **options)

    async def decide(
        self, principal: Principal, what: tuple[ActionSpec, Step], *, at: int | None = None, **about: Any
    ) -> Decision:
        """Decide and record, as the gate does."""
        moment = now() if at is None else at
        decision = await self.policy.decide(principal, *what, Circumstances(moment, **about))
        prepared = self.recorded.prepare(principal, what[0], decision, "execute", moment)
        if prepared is not None:
            await self.database.writer.run(lambda tx: prepared.put(tx, "att_test"))
        return decision

    async def replay(
        self, principal: Principal, text: str, *, days: int = 7, seconds: float | None = None
    ) -> tuple[Replayed, list[Flip]]:
        flips: list[Flip] = []
        found = await self.replays.run(
            principal, principal.workspace_id, text, days=days, seconds=seconds, on_flip=flips.append
        )
        return found, flips

    async def rows(self, table: Any) -> list[Any]:
        return [row._mapping for row in await self.database.reader.all(select(table))]


@asynccontextmanager
async def policy_world(
    target: Target,
    *,
    schema: CatalogSchema = SCHEMA,
    replay_required: bool = False,
    retention: int = 30 * DAY,
) -> AsyncIterator[PolicyWorld]:
    """Open the database as a process of its own would."""
    async with open_keyring(target) as ring:
        vault = Vault(ring.envelopes, ring.database.reader)
        versions = PolicyVersions(ring.database, schema, replay_required=replay_required)
        yield PolicyWorld(
            ring,
            versions,
            Replays(ring.database, vault, schema),
            CedarPolicy(versions, REACH, AttemptCounts(ring.database.reader)),
            Recorded(vault, retention),
        )
