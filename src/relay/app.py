"""The composition root of a server: builds everything that serves once, seals the routes, runs what runs by itself."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from sqlalchemy import select
from starlette.types import ASGIApp

from relay.audit.anonymous import AnonymousFailures
from relay.audit.record import event
from relay.catalog import Catalog
from relay.connectors import echo, email, http, webhook
from relay.core.clock import DAY, HOUR, MICROSECONDS
from relay.core.facts import RequestFacts
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.egress.http import HttpClient
from relay.egress.mail import MaildirTransport, MailTransport
from relay.egress.own import own_endpoints
from relay.egress.policy import EgressPolicy
from relay.egress.smtp import SmtpTransport
from relay.gate.admit import Gate
from relay.gate.attempts import Attempts
from relay.gate.authenticate import Authenticate
from relay.gate.limit import ActionLimits, RequestLimits
from relay.gate.perform import Performer
from relay.gate.preview import Previews
from relay.gate.sweep import Sweep
from relay.house import House
from relay.identity.dev import dev_facts, dev_principal_for
from relay.identity.operator import operator
from relay.limits.actions import limit_actions
from relay.limits.service import LimitService
from relay.planning.local import LocalPlanner
from relay.policy.scopes import ScopePolicy
from relay.queue.local import LocalQueue
from relay.runs.plans import Plans
from relay.runs.service import Runs
from relay.settings import Settings, SettingsError
from relay.store.lock import ServerLock
from relay.store.query import Query
from relay.store.retention import Purge
from relay.store.tables import installation as installation_table
from relay.store.writer import StoreUnavailable
from relay.surface.application import build_application
from relay.surface.declare import Routes
from relay.surface.edge import edge_of
from relay.web.api.actions import actions_routes
from relay.web.api.ai import ai_routes
from relay.web.api.audit import audit_routes
from relay.web.api.keys import keys_routes
from relay.web.api.system import docs_routes, system_routes
from relay.web.api.workspace import workspace_routes

_ANYTHING: Final = Query(select(installation_table.c.id))

log = logging.getLogger("relay")


@dataclass(frozen=True, slots=True)
class Server:
    """A gateway that may be served: ``asgi`` is sealed and stamped, ``first_key`` is set once in a database's life."""

    house: House
    asgi: ASGIApp
    fastapi: FastAPI
    performer: Performer
    limits: LimitService
    first_key: str | None
    close_streams: Callable[[], None]


@asynccontextmanager
async def open_server(house: House, *, listen: tuple[str, int]) -> AsyncIterator[Server]:
    """Build the gateway on an open house and run what runs by itself: sweeps, signed heads, plan runs, purges.

    ``listen`` is the address that the server is bound to; egress keeps it closed.
    :class:`~relay.store.lock.AlreadyRunning` when another server holds the SQLite database.
    """
    sole = house.target.kind == "sqlite"
    lock = ServerLock(house.target.path) if house.target.path is not None else None
    if lock is not None:
        lock.acquire()
    failures = AnonymousFailures(house.database.writer)
    parts = _Parts(house, failures, listen)
    try:
        await parts.limits.start()
        await parts.sweep.start(sole_process=sole)
        await _note(house, "relay:server:started")
        await house.heads.start()
        await failures.start()
        await parts.purge.start()
        await parts.runs.start(sole_process=sole)
        first_key = await house.api_keys.first_key(operator(), request_id=new_id("req"))
        yield Server(
            house, parts.asgi, parts.fastapi, parts.performer, parts.limits, first_key, parts.runs.close_streams
        )
    finally:
        await parts.runs.stop(house.settings.shutdown_grace_seconds)
        await parts.attempts.stop()
        await parts.purge.stop()
        await parts.sweep.stop()
        await failures.stop()
        await parts.limits.stop()
        try:
            await _note(house, "relay:server:stopped")
        except StoreUnavailable as error:
            log.warning("that the server stopped could not be recorded: %s", error)
        await house.heads.stop()
        if lock is not None:
            lock.release()


async def _note(house: House, tag: str) -> None:
    draft = event(tag, workspace_id="", principal=operator().id, request_id=new_id("req"), target=house.installation.id)
    await house.database.writer.run(lambda tx: tx.record(draft), outcome=True)


class _Parts:
    """The server's objects, wired. Construction does no I/O."""

    def __init__(self, house: House, failures: AnonymousFailures, listen: tuple[str, int]) -> None:
        settings, database = house.settings, house.database
        self.catalog = build_catalog(settings, listen)
        self.limits = LimitService(settings, house.installation.id, lambda tag: _note(house, tag))
        action_limits = ActionLimits(self.limits.limiter)
        self.attempts = Attempts(
            database,
            house.vault,
            retention=settings.retention_days * DAY,
            idempotency_ttl=settings.idempotency_ttl_hours * HOUR,
            on_full=action_limits.full,
        )
        previews = Previews(database, house.vault, ttl=settings.preview_ttl_seconds * MICROSECONDS)
        self.performer = Performer(self.catalog, ScopePolicy(), house.api_keys, self.attempts, previews, action_limits)
        self.sweep = Sweep(database)
        self.purge = Purge(database.writer)
        plans = Plans(
            database, house.vault, self.performer, LocalPlanner(), ttl=settings.plan_ttl_seconds * MICROSECONDS
        )
        self.runs = Runs(
            database,
            house.vault,
            self.performer,
            house.api_keys,
            plans,
            LocalQueue(settings.run_concurrency),
            retention=settings.retention_days * DAY,
            idempotency_ttl=settings.idempotency_ttl_hours * HOUR,
        )
        self.gate = Gate(
            Authenticate(house.api_keys, failures, _anonymous(settings)),
            RequestLimits(self.limits.rules, self.limits.limiter, failures),
        )
        self.fastapi, self.asgi = build_application(
            self._routes(house, plans),
            self.gate.admit,
            body_limit=settings.body_limit_bytes,
            body_seconds=settings.request_timeout_seconds,
            edge=edge_of(settings),
        )

    def _routes(self, house: House, plans: Plans) -> list[Routes]:
        settings = house.settings
        groups = []
        if settings.actions_enabled:
            groups.append(actions_routes(self.performer, self.catalog))
            groups.append(ai_routes(plans, self.runs, house.api_keys, streams=settings.streams_per_principal))
        groups.append(keys_routes(house.api_keys))
        groups.append(workspace_routes(house.api_keys))
        groups.append(audit_routes(house.audit_log, house.verifier))
        groups.append(
            system_routes(
                {
                    "database": lambda: _database_answers(house),
                    "writer": lambda: _writer_answers(house),
                    **({"limits": self.limits.answers} if self.limits.shared else {}),
                },
                contact=settings.security_contact,
                policy_url=settings.security_policy_url,
            )
        )
        groups.append(docs_routes(lambda: self.fastapi.openapi(), public=settings.env == "local"))
        return groups


def build_catalog(settings: Settings, listen: tuple[str, int]) -> Catalog:
    """Return every action of this installation with the client that its connector uses."""
    database, redis = settings.database_url, settings.redis_url
    try:
        own = own_endpoints(
            listen=listen,
            database_url=database.get_secret_value() if database else None,
            redis_url=redis.get_secret_value() if redis else None,
        )
        egress = EgressPolicy(settings.egress_allow, own)
    except ValueError as error:
        raise SettingsError([f"EGRESS_ALLOW: {error}"]) from None
    catalog = Catalog()
    catalog.register(echo.connector, None)
    catalog.register(email.connector, _mail(settings))
    catalog.register(webhook.connector, HttpClient(egress, webhook.connector.hosts))
    catalog.register(http.connector, HttpClient(egress, http.connector.hosts))
    limit_actions(catalog, settings)
    return catalog


def _mail(settings: Settings) -> MailTransport:
    if settings.smtp_url is None:
        folder = settings.data_dir / "mail"
        return MaildirTransport(folder, settings.smtp_from) if settings.smtp_from else MaildirTransport(folder)
    ca_file = str(settings.smtp_ca_file) if settings.smtp_ca_file else None
    try:
        return SmtpTransport(settings.smtp_url.get_secret_value(), settings.smtp_from or "", ca_file=ca_file)
    except ValueError as error:
        raise SettingsError([f"SMTP_URL: {error}"]) from None


def _anonymous(settings: Settings) -> Callable[[RequestFacts], Principal | None] | None:
    if not settings.dev_auth_mode:
        return None
    return lambda facts: dev_principal_for(dev_facts(settings, facts))


async def _database_answers(house: House) -> bool:
    await house.database.reader.one(select(installation_table.c.id))
    return True


async def _writer_answers(house: House) -> bool:
    # A statement, since a transaction without one never reaches PostgreSQL.
    await house.database.writer.run(lambda tx: tx.one(_ANYTHING))
    return True
