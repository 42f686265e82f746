"""The composition root of everything: an installation, opened. Commands need no more; a server builds upon it."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from relay.audit.heads import HeadKeeper, head_signer
from relay.audit.log import AuditLog
from relay.audit.record import Recorder
from relay.audit.verify import Verifier
from relay.core.clock import DAY, now
from relay.core.event import EventDraft
from relay.core.ids import new_id
from relay.crypto.api_key import KeyEnv
from relay.crypto.envelope import Envelopes
from relay.crypto.keys import check_value
from relay.identity.api_keys import ApiKeys
from relay.identity.dev import dev_principal
from relay.settings import Settings, SettingsError
from relay.settings.keys import Keys, ensure_data_dir, ensure_keys
from relay.settings.safety import refusals
from relay.store import schema
from relay.store.database import Database
from relay.store.installation import Installation, ensure_installation
from relay.store.target import Target, parse_target
from relay.store.vault import Vault
from relay.store.writer import Finish, Tx
from relay.webhooks.outbox import Outbox
from relay.webhooks.watch import Watch

_KEY_ENVS: Final[dict[str, KeyEnv]] = {"production": "live", "local": "local", "test": "test"}

log = logging.getLogger("relay")


@dataclass(frozen=True, slots=True)
class House:
    """Everything that stands on one open database; what commands need and the server builds upon."""

    settings: Settings
    target: Target
    database: Database
    installation: Installation
    envelopes: Envelopes
    vault: Vault
    api_keys: ApiKeys
    audit_log: AuditLog
    verifier: Verifier
    heads: HeadKeeper
    outbox: Outbox
    watch: Watch


class NoInstallation(Exception):
    """There is nothing yet where the settings point, and whoever asked must not make it."""


@asynccontextmanager
async def open_house(settings: Settings, *, create: bool = True) -> AsyncIterator[House]:
    """Open the installation that the settings describe, migrating it and, with ``create``, making what is not there.

    Without ``create`` :class:`NoInstallation` is raised instead: a mistyped folder must not verify as an empty log.
    :class:`SettingsError` for unsafe settings or missing or wrong keys; StoreUnavailable when the database does not
    answer. Nothing is served and nothing runs by itself; that is :func:`relay.app.open_server`'s.
    """
    if problems := refusals(settings):
        raise SettingsError(problems)
    target = _target(settings)
    has_data = schema.has_data(target)
    if not has_data and not create:
        where = f"the folder {settings.data_dir}" if target.path is not None else "the database that DATABASE_URL names"
        raise NoInstallation(f"there is no installation in {where}; `relay serve` makes one")
    ensure_data_dir(settings.data_dir)
    keys = ensure_keys(settings, database_has_data=has_data)
    if schema.upgrade(target):
        log.info("the database schema is now at %s", schema.HEAD)
    envelopes = Envelopes.of(keys.kek)
    outbox = Outbox(envelopes, retention=settings.retention_days * DAY)
    database = Database(target, _finish(outbox, Recorder(envelopes)))
    if target.kind == "sqlite":  # on PostgreSQL other processes make endpoints too
        outbox.follow(database.generation)
    watch = Watch(database)
    await database.start()
    try:
        installation = await _prove_keys(database, keys)
        standing = [dev_principal()] if settings.dev_auth_mode else []
        api_keys = ApiKeys(
            database, envelopes, _KEY_ENVS[settings.env], standing=standing, on_revoked=watch.revoked_key_used
        )
        await api_keys.start()
        signer = head_signer(keys.secret_key, installation.id)
        heads = HeadKeeper(database, signer)
        house = House(
            settings=settings,
            target=target,
            database=database,
            installation=installation,
            envelopes=envelopes,
            vault=Vault(envelopes, database.reader),
            api_keys=api_keys,
            audit_log=AuditLog(database.reader, envelopes),
            verifier=Verifier(database, envelopes, signer, watch.log_broken),
            heads=heads,
            outbox=outbox,
            watch=watch,
        )
        try:
            yield house
        finally:
            await house.verifier.stop()
            await watch.stop()
            await api_keys.stop()
    finally:
        await database.stop()


def _finish(outbox: Outbox, recorder: Recorder) -> Finish:
    """Return what ends every transaction: what it has to send, then its audit events, which lock the head row last."""

    def finish(tx: Tx, drafts: Sequence[EventDraft]) -> None:
        outbox.finish(tx, drafts)
        recorder.finish(tx, drafts)

    return finish


def _target(settings: Settings) -> Target:
    url = settings.database_url
    try:
        return parse_target(url.get_secret_value() if url else None, settings.data_dir)
    except ValueError as error:
        raise SettingsError([str(error)]) from None


async def _prove_keys(database: Database, keys: Keys) -> Installation:
    """Compare the keys with the installation's check values, so that no process works with other ones."""
    fresh = Installation(new_id("ins"), check_value(keys.secret_key), check_value(keys.kek))
    stored = await database.writer.run(lambda tx: ensure_installation(tx, fresh, now()))
    wrong = [
        f"{name}: this is not the key that the database was set up with; give the old one"
        for name, ours, theirs in (
            ("SECRET_KEY", fresh.secret_key_check, stored.secret_key_check),
            ("OAUTH_ENCRYPTION_KEY", fresh.kek_check, stored.kek_check),
        )
        if ours != theirs
    ]
    if wrong:
        raise SettingsError(wrong)
    return stored
