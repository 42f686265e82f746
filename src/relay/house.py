"""The composition root of everything: an installation, opened. Commands need no more; a server builds upon it."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from relay.audit.counting import EventCounts
from relay.audit.heads import HeadKeeper
from relay.audit.log import AuditLog
from relay.audit.record import Recorder
from relay.audit.telling import SecurityEvents
from relay.audit.verify import Verifier
from relay.core.clock import DAY, now
from relay.core.event import EventDraft
from relay.crypto.api_key import KeyEnv
from relay.crypto.envelope import Envelopes
from relay.identity.api_keys import ApiKeys
from relay.identity.chat import ChatDoor
from relay.identity.dev import dev_principal
from relay.rotation.ages import ages
from relay.rotation.keyring import Keyring
from relay.rotation.places import FERNET_PURPOSES
from relay.settings import Settings, SettingsError
from relay.settings.key_folder import KeyFolder
from relay.settings.keys import ensure_data_dir, ensure_keys
from relay.settings.safety import refusals
from relay.store import schema
from relay.store.database import Database
from relay.store.installation import Installation
from relay.store.target import Target, parse_target
from relay.store.vault import Vault
from relay.store.writer import Finish, Tx
from relay.telemetry import spans
from relay.telemetry.metrics import Metrics
from relay.telemetry.security import SecurityLog
from relay.telemetry.slots import Slot
from relay.telemetry.traces import Traces
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
    keyring: Keyring
    vault: Vault
    api_keys: ApiKeys
    audit_log: AuditLog
    verifier: Verifier
    heads: HeadKeeper
    outbox: Outbox
    watch: Watch
    metrics: Metrics
    security: SecurityLog
    traces: Traces | None

    def secret_ages(self) -> dict[str, float]:
        """Return for how many seconds each secret has been in use, by its name in the catalogue of metrics."""
        return {age.secret: age.seconds(now()) for age in ages(self.keyring)}


class NoInstallation(Exception):
    """There is nothing yet where the settings point, and whoever asked must not make it."""


@asynccontextmanager
async def open_house(
    settings: Settings, *, create: bool = True, slot: Slot | None = None, process: str = "command"
) -> AsyncIterator[House]:
    """Open the installation that the settings describe, migrating it and, with ``create``, making what is not there.

    Without ``create`` :class:`NoInstallation` is raised instead: a mistyped folder must not verify as an empty log.
    :class:`SettingsError` for unsafe settings or missing or wrong keys; StoreUnavailable when the database does not
    answer. Nothing is served and nothing runs by itself; that is :func:`relay.app.open_server`'s. ``slot`` is this
    process's share of the metrics of a group of processes; ``process`` says what it is, for whoever rotates secrets.
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
    envelopes = Envelopes.of(keys.kek, fernet=FERNET_PURPOSES)
    outbox = Outbox(envelopes, retention=settings.retention_days * DAY)
    metrics = Metrics(enabled=settings.telemetry_enabled, slot=slot)
    security = SecurityLog()
    exported = settings.telemetry_enabled and settings.otel_exporter_otlp_endpoint is not None
    traces = Traces(settings.otel_traces_sampler_arg) if exported else None
    spans.use(traces)  # before there is any task, so that all of them have it
    followers = (EventCounts(metrics), SecurityEvents(security))
    database = Database(target, _finish(outbox, Recorder(envelopes), followers), metrics)
    if target.kind == "sqlite":  # on PostgreSQL other processes make endpoints too
        outbox.follow(database.generation)
    watch = Watch(database)
    keyring = Keyring(database, envelopes, KeyFolder(settings, keys), process)
    await database.start()
    try:
        installation = await keyring.open()
        standing = [*([dev_principal()] if settings.dev_auth_mode else []), *ChatDoor(settings).standing]
        api_keys = ApiKeys(
            database, envelopes, _KEY_ENVS[settings.env], standing=standing, on_revoked=watch.revoked_key_used
        )
        await api_keys.start()
        await keyring.start(api_keys.refresh_peppers)
        heads = HeadKeeper(database, keyring.heads)
        house = House(
            settings=settings,
            target=target,
            database=database,
            installation=installation,
            envelopes=envelopes,
            keyring=keyring,
            vault=Vault(envelopes, database.reader),
            api_keys=api_keys,
            audit_log=AuditLog(database.reader, envelopes),
            verifier=Verifier(database, envelopes, keyring.heads, watch.log_broken, metrics),
            heads=heads,
            outbox=outbox,
            watch=watch,
            metrics=metrics,
            security=security,
            traces=traces,
        )
        try:
            yield house
        finally:
            await house.verifier.stop()
            await watch.stop()
            await api_keys.stop()
    finally:
        await keyring.stop()
        await database.stop()
        metrics.close()
        security.close()
        spans.use(None)


def _finish(outbox: Outbox, recorder: Recorder, followers: Sequence[EventCounts | SecurityEvents]) -> Finish:
    """Return what ends every transaction: what it has to send, then its audit events, which lock the head row last."""

    def finish(tx: Tx, drafts: Sequence[EventDraft]) -> None:
        outbox.finish(tx, drafts)
        recorder.finish(tx, drafts)
        for follower in followers:
            follower.finish(tx, drafts)

    return finish


def _target(settings: Settings) -> Target:
    url = settings.database_url
    try:
        return parse_target(url.get_secret_value() if url else None, settings.data_dir)
    except ValueError as error:
        raise SettingsError([str(error)]) from None
