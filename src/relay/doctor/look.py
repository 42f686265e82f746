"""Looking at the database: its state, what PostgreSQL says of itself, and what an installation holds."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select, text

from relay.audit.verify import Verification, verify_log
from relay.core.clock import now
from relay.core.problem import Unavailable
from relay.doctor.facts import Audit, DatabaseState, Key, PostgresServer, Store
from relay.doctor.unlock import unlock
from relay.settings import Settings
from relay.store.looking import is_still, looking_reader
from relay.store.reader import Reader
from relay.store.schema import HEAD
from relay.store.tables import api_keys, audit_events, installation, signed_heads
from relay.store.tables.webhooks_out import webhook_endpoints
from relay.store.target import Target
from relay.store.writer import StoreUnavailable

Verify = Callable[[], Awaitable[Verification]]

MOST_KEYS: Final = 10_000

_TABLE: Final = {
    "sqlite": "SELECT name FROM sqlite_master WHERE name = 'alembic_version'",
    "postgres": "SELECT to_regclass('alembic_version')",
}
_REVISION: Final = text("SELECT version_num FROM alembic_version")
_POSTGRES: Final = text(
    "SELECT current_setting('server_version_num')::int, extract(epoch FROM clock_timestamp())::float8,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
    " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'relay-writer')"
)


@dataclass(frozen=True, slots=True)
class Looked:
    """What could be seen; a text in place of facts says why they could not."""

    database: DatabaseState | str
    postgres: PostgresServer | str = "the database is not PostgreSQL"
    store: Store | str = "there is no installation to look at"


async def look(target: Target, settings: Settings, verify: Verify | None) -> Looked:
    """Look at a database without changing anything. ``verify`` is how a running server verifies its log."""
    if target.path is not None and not target.path.exists():
        return Looked(DatabaseState("none", installed=False))
    quiet = target.path is not None and is_still(target.path)
    looked = await _look(target, settings, verify)
    if quiet and target.path is not None and not is_still(target.path):
        # A server began to write into a file that was taken for immutable.
        looked = await _look(target, settings, verify)
    return looked


async def _look(target: Target, settings: Settings, verify: Verify | None) -> Looked:
    reader = looking_reader(target)
    database: DatabaseState | str
    postgres: PostgresServer | str = "the database is not PostgreSQL"
    try:
        database = await _state(reader, target)
        if target.kind == "postgres":
            postgres = await _postgres(reader)
        if database.schema != "current" or not database.installed:
            why = "there is no installation to look at" if not database.installed else "the schema is another version's"
            return Looked(database, postgres, why)
        return Looked(database, postgres, await _store(reader, settings, verify))
    except StoreUnavailable as error:
        place = f"{target.place} does not answer ({error})"
        return Looked(place, "the database does not answer", "the database does not answer")
    finally:
        await reader.close()


async def _state(reader: Reader, target: Target) -> DatabaseState:
    table = await reader.one(text(_TABLE[target.kind]))
    row = await reader.one(_REVISION) if table is not None and table[0] is not None else None
    if row is None:
        return DatabaseState("none", installed=False)
    revision = str(row[0])
    there = await reader.one(select(installation.c.id)) is not None
    if revision == HEAD:
        return DatabaseState("current", there, revision)
    return DatabaseState("newer" if revision > HEAD else "old", there, revision)


async def _postgres(reader: Reader) -> PostgresServer:
    await reader.one(select(1))  # so that making the connection does not count as the clock's difference
    before = time.time()
    row = await reader.one(_POSTGRES)
    after = time.time()
    if row is None:
        raise StoreUnavailable("no answer")
    at = float(row[1])
    ahead = at - after if at > after else min(0.0, at - before)
    return PostgresServer(version=int(row[0]), clock_ahead=ahead, superuser=bool(row[2]), processes=int(row[3]))


async def _store(reader: Reader, settings: Settings, verify: Verify | None) -> Store:
    unlocked = await unlock(reader, settings)
    if verify is not None:
        broken = await _broken(verify)
    elif unlocked.trust is None:
        broken = "it cannot be verified without its signing key"
    else:
        trust = unlocked.trust
        broken = await _broken(lambda: verify_log(reader, trust))
    audit = await _audit(reader, broken)
    return Store(await _keys(reader), await _given_up(reader), audit, unlocked.wrong, unlocked.uses)


async def _broken(verify: Verify) -> str | None:
    try:
        found = await verify()
    except Unavailable:
        return None  # a first verification of a long log is under way; what it finds is told an hour later
    return None if found.finding is None else f"event {found.finding.seq}: {found.finding.reason}"


async def _audit(reader: Reader, broken: str | None) -> Audit:
    last = await reader.one(
        select(audit_events.c.seq, audit_events.c.occurred_at).order_by(audit_events.c.seq.desc()).limit(1)
    )
    signed = await reader.one(select(func.coalesce(func.max(signed_heads.c.size), 0)))
    waiting = await reader.one(
        select(audit_events.c.occurred_at)
        .where(audit_events.c.seq > (int(signed[0]) if signed else 0))
        .order_by(audit_events.c.seq)
        .limit(1)
    )
    return Audit(
        size=int(last[0]) if last else 0,
        broken=broken,
        last_event_at=int(last[1]) if last else None,
        first_unsigned_at=int(waiting[0]) if waiting else None,
    )


async def _keys(reader: Reader) -> tuple[Key, ...]:
    column = api_keys.c
    rows = await reader.all(
        select(
            column.id,
            column.kind,
            column.workspace_id,
            column.scopes,
            column.name,
            column.created_at,
            column.expires_at,
            column.last_used_at,
        )
        .where(
            column.revoked_at.is_(None),
            column.expires_at > now(),
            column.quarantined_at.is_(None),
            column.honey == 0,  # made to be found, and never of use
        )
        .order_by(column.id)
        .limit(MOST_KEYS)
    )
    return tuple(
        Key(id, kind, workspace, frozenset(json.loads(scopes)), name, created_at, expires_at, last_used_at)
        for id, kind, workspace, scopes, name, created_at, expires_at, last_used_at in rows
    )


async def _given_up(reader: Reader) -> tuple[str, ...]:
    column = webhook_endpoints.c
    rows = await reader.all(
        select(column.id)
        .where(column.status == "disabled", column.disabled_reason.is_not(None))
        .order_by(column.id)
        .limit(100)
    )
    return tuple(str(row[0]) for row in rows)
