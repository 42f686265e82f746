"""The composition root of servers and workers: builds everything once, seals the routes, runs what runs by itself."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from sqlalchemy import select
from starlette.types import ASGIApp

from relay.approvals.decide import Decisions
from relay.approvals.expire import Expiry
from relay.approvals.intake import Intake
from relay.approvals.notices import Notices
from relay.approvals.requests import Requests
from relay.audit.anonymous import AnonymousFailures
from relay.audit.record import event
from relay.catalog import Catalog
from relay.connectors import echo, email, http, webhook
from relay.core.clock import DAY, HOUR, MICROSECONDS
from relay.core.facts import RequestFacts
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.egress.http import HttpClient
from relay.egress.mail import MaildirTransport, MailTransport, check_address
from relay.egress.own import own_endpoints
from relay.egress.policy import EgressPolicy
from relay.egress.smtp import SmtpTransport
from relay.egress.webhooks import WebhookClient
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.gate.checks import Checks
from relay.gate.limit import ActionLimits, RequestLimits
from relay.gate.parts import GateParts, Lifetimes
from relay.gate.perform import Performer
from relay.gate.signature import VerifySignature
from relay.house import House
from relay.identity.dev import dev_facts, dev_principal_for, needs_no_credential
from relay.identity.operator import operator
from relay.limits.actions import limit_actions
from relay.limits.service import LimitService
from relay.planning.local import LocalPlanner
from relay.policy.budget_book import BudgetBook
from relay.policy.budgets import Budgets
from relay.policy.engine import CedarPolicy
from relay.policy.installed import installed_reach, installed_schema
from relay.policy.kill_switch import KillSwitch
from relay.policy.recorded import Recorded
from relay.policy.replay import Replays
from relay.policy.versions import PolicyVersions
from relay.queue.choose import open_queue
from relay.runs.plans import Plans
from relay.runs.service import Runs
from relay.settings import Settings, SettingsError
from relay.settings.keys import ensure_webhook_secret
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
from relay.web.api.approvals import approvals_routes
from relay.web.api.audit import audit_routes
from relay.web.api.budgets import budgets_routes
from relay.web.api.deliveries import deliveries_routes
from relay.web.api.endpoints import endpoints_routes
from relay.web.api.keys import keys_routes
from relay.web.api.kill_switch import kill_switch_routes
from relay.web.api.policies import policies_routes
from relay.web.api.policy_trials import policy_trials_routes
from relay.web.api.receivers import receivers_routes, receiving_routes
from relay.web.api.system import docs_routes, system_routes
from relay.web.api.workspace import workspace_routes
from relay.webhooks.deliver import Sender
from relay.webhooks.endpoints import Endpoints
from relay.webhooks.journal import Journal
from relay.webhooks.log import DeliveryLog
from relay.webhooks.receive import Receiving
from relay.webhooks.receivers import Receivers
from relay.webhooks.schedule import Schedule

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
async def open_server(
    house: House, *, listen: tuple[str, int], schedule: Schedule | None = None
) -> AsyncIterator[Server]:
    """Build the gateway on an open house and run what runs by itself: sweeps, signed heads, durable work, purges.

    ``listen`` is the address that the server is bound to; egress keeps it closed. ``schedule`` says when webhooks are
    tried again, where that is not as documented.
    :class:`~relay.store.lock.AlreadyRunning` when another server holds the SQLite database. With
    ``WORK_IN_SERVER=false`` the durable work is left to ``relay worker``.
    """
    lock = ServerLock(house.target.path) if house.target.path is not None else None
    if lock is not None:
        lock.acquire()
    failures = AnonymousFailures(house.database.writer)
    engine = _Engine(house, listen, schedule or Schedule())
    doors = _Doors(house, engine, failures)
    try:
        await engine.start(work=house.settings.work_in_server)
        await _note(house, "relay:server:started")
        await failures.start()
        first_key = await house.api_keys.first_key(operator(), request_id=new_id("req"))
        yield Server(
            house, doors.asgi, doors.fastapi, engine.performer, engine.limits, first_key, engine.runs.close_streams
        )
    finally:
        await engine.stop()
        await failures.stop()
        await _note_stop(house, "relay:server:stopped")
        await house.heads.stop()
        if lock is not None:
            lock.release()


@asynccontextmanager
async def open_worker(house: House) -> AsyncIterator[None]:
    """Do the durable work of a shared database, and nothing else, until the block ends: no routes, no listener.

    ``RELAY_HOST`` and ``RELAY_PORT`` say where the servers listen; egress keeps that closed.
    """
    engine = _Engine(house, (house.settings.host, house.settings.port), Schedule())
    try:
        await engine.start(work=True)
        await _note(house, "relay:worker:started")
        yield
    finally:
        await engine.stop()
        await _note_stop(house, "relay:worker:stopped")
        await house.heads.stop()


async def _note(house: House, tag: str) -> None:
    draft = event(tag, workspace_id="", principal=operator().id, request_id=new_id("req"), target=house.installation.id)
    await house.database.writer.run(lambda tx: tx.record(draft), outcome=True)


async def _note_stop(house: House, tag: str) -> None:
    try:
        await _note(house, tag)
    except StoreUnavailable as error:
        log.warning("that this process stopped could not be recorded: %s", error)


class _Engine:
    """What works, in servers and workers alike: the gate, plan runs and whatever else is durable. No HTTP.

    Construction does no I/O. Whoever puts work into :attr:`queue` registers its handler before :meth:`start`.
    """

    def __init__(self, house: House, listen: tuple[str, int], schedule: Schedule) -> None:
        settings, database = house.settings, house.database
        self._house = house
        self.catalog = build_catalog(settings, listen)
        self.policy_schema = installed_schema(self.catalog, settings)
        self.policies = PolicyVersions(database, self.policy_schema, replay_required=settings.policy_replay_required)
        self.replays = Replays(database, house.vault, self.policy_schema)
        self.policy = CedarPolicy(self.policies, installed_reach(settings))
        self.limits = LimitService(settings, house.installation.id, lambda tag: _note(house, tag))
        self.queue = open_queue(house.target, settings.run_concurrency)
        self.kill_switch = KillSwitch(database, self.catalog)
        self.budgets = Budgets(database, house.vault)
        self.budget_book = BudgetBook(database, self.catalog)
        recorded = Recorded(house.vault, settings.decision_retention_days * DAY)
        checks = Checks(self.kill_switch, self.budgets, recorded)
        self.requests = Requests(database, house.vault, self.catalog)
        self.notices = _notices(house, self.requests, self.catalog)
        gate = GateParts(
            database,
            house.vault,
            self.catalog,
            self.policy,
            house.api_keys,
            checks,
            ActionLimits(self.limits.limiter),
            self.queue,
            Intake(self.notices, settings.approvals_per_key, settings.approvals_per_workspace),
            Lifetimes(
                retention=settings.retention_days * DAY,
                idempotency=settings.idempotency_ttl_hours * HOUR,
                preview=settings.preview_ttl_seconds * MICROSECONDS,
                approval=settings.approval_ttl_hours * HOUR,
                hold_back=settings.hold_back_seconds,
            ),
        )
        self.gate = gate
        self.performer = gate.performer
        self.decisions = Decisions(
            database,
            house.vault,
            self.catalog,
            gate.resumer,
            gate.dispatch.wake,
            retention=settings.retention_days * DAY,
            hold_back=settings.hold_back_seconds,
        )
        self.expiry = Expiry(database)
        self.purge = Purge(database.writer)
        self.plans = Plans(
            database, house.vault, self.performer, LocalPlanner(), ttl=settings.plan_ttl_seconds * MICROSECONDS
        )
        self.runs = Runs(
            database,
            house.vault,
            self.performer,
            house.api_keys,
            self.plans,
            self.queue,
            retention=settings.retention_days * DAY,
            idempotency_ttl=settings.idempotency_ttl_hours * HOUR,
            recall=gate.holds.cancel_with_run,
        )
        client = WebhookClient(build_egress(settings, listen))
        journal = Journal(database, house.envelopes, house.outbox, schedule)
        self.sender = Sender(database, journal, client, self.queue, house.outbox, schedule)
        self.endpoints = Endpoints(database, house.vault, house.envelopes, house.outbox, client)
        self.deliveries = DeliveryLog(database, house.vault, house.outbox)

    async def start(self, *, work: bool) -> None:
        """Run what runs by itself. ``work`` says whether this process takes part in the durable work."""
        sole = self._house.target.kind == "sqlite"
        await self.limits.start()
        await self.gate.sweep.start(sole_process=sole)
        await self._house.heads.start()
        await self.purge.start()
        await self.kill_switch.stopping.start()
        await self.queue.start(work=work)
        await self.sender.start(work=work, sole_process=sole)
        if work:
            await self._house.watch.start()
            await self.gate.dispatch.start()
            await self.expiry.start()
            await self.notices.start()
            await self.runs.start(sole_process=sole)

    async def stop(self) -> None:
        """Begin nothing new and wait within the grace for what is under way."""
        await self.gate.dispatch.stop()
        await self.expiry.stop()
        await self.notices.stop()
        await self.runs.stop()
        await self.sender.stop(self._house.settings.shutdown_grace_seconds)
        await self.queue.stop(self._house.settings.shutdown_grace_seconds)
        await self.gate.attempts.stop()
        await self.kill_switch.stopping.stop()
        await self.purge.stop()
        await self.gate.sweep.stop()
        await self.limits.stop()


class _Doors:
    """The HTTP side of a server, sealed. Construction does no I/O but for the secret of ``/webhooks/relay``."""

    def __init__(self, house: House, engine: _Engine, failures: AnonymousFailures) -> None:
        settings = house.settings
        self._engine = engine
        self._receiving = _receiving(house)
        self.gate = Gate(
            Authenticate(house.api_keys, failures, _anonymous(settings)),
            RequestLimits(engine.limits.rules, engine.limits.limiter, failures),
            VerifySignature(self._receiving, failures),
        )
        self.fastapi, self.asgi = build_application(
            self._routes(house),
            self.gate.admit,
            body_limit=settings.body_limit_bytes,
            body_seconds=settings.request_timeout_seconds,
            edge=edge_of(settings),
        )

    def _routes(self, house: House) -> list[Routes]:
        settings, engine = house.settings, self._engine
        groups = []
        if settings.actions_enabled:
            groups.append(actions_routes(engine.performer, engine.catalog, engine.requests))
            groups.append(approvals_routes(engine.requests, engine.decisions, engine.performer))
            groups.append(ai_routes(engine.plans, engine.runs, house.api_keys, streams=settings.streams_per_principal))
        groups.append(keys_routes(house.api_keys))
        groups.append(workspace_routes(house.api_keys))
        groups.append(policies_routes(engine.policies, baseline=engine.policy_schema.baseline_text))
        groups.append(
            policy_trials_routes(engine.policies, engine.replays, engine.policy, engine.catalog, house.api_keys)
        )
        groups.append(budgets_routes(engine.budget_book))
        groups.append(kill_switch_routes(engine.kill_switch))
        groups.append(audit_routes(house.audit_log, house.verifier))
        groups.append(receiving_routes(self._receiving))
        groups.append(receivers_routes(Receivers(house.database, house.vault, self._receiving)))
        groups.append(endpoints_routes(engine.endpoints))
        groups.append(deliveries_routes(engine.deliveries))
        groups.append(
            system_routes(
                {
                    "database": lambda: _database_answers(house),
                    "writer": lambda: _writer_answers(house),
                    **({"limits": engine.limits.answers} if engine.limits.shared else {}),
                },
                contact=settings.security_contact,
                policy_url=settings.security_policy_url,
            )
        )
        groups.append(docs_routes(lambda: self.fastapi.openapi(), public=settings.env == "local"))
        return groups


def build_egress(settings: Settings, listen: tuple[str, int]) -> EgressPolicy:
    """Return where callers, agents and stored data may make this installation connect to."""
    database, redis = settings.database_url, settings.redis_url
    try:
        own = own_endpoints(
            listen=listen,
            database_url=database.get_secret_value() if database else None,
            redis_url=redis.get_secret_value() if redis else None,
        )
        return EgressPolicy(settings.egress_allow, own)
    except ValueError as error:
        raise SettingsError([f"EGRESS_ALLOW: {error}"]) from None


def build_catalog(settings: Settings, listen: tuple[str, int]) -> Catalog:
    """Return every action of this installation with the client that its connector uses."""
    egress = build_egress(settings, listen)
    catalog = Catalog()
    catalog.register(echo.connector, None)
    catalog.register(email.connector, _mail(settings))
    catalog.register(webhook.connector, HttpClient(egress, webhook.connector.hosts))
    catalog.register(http.connector, HttpClient(egress, http.connector.hosts))
    limit_actions(catalog, settings)
    return catalog


def _notices(house: House, requests: Requests, catalog: Catalog) -> Notices:
    """Return the mails about approvals; they go the way of all mail."""
    settings, transport = house.settings, catalog.client("email.send")
    try:
        recipients = tuple(map(check_address, settings.approval_mail_to))
    except ValueError as error:
        raise SettingsError([f"APPROVAL_MAIL_TO: {error}"]) from None
    return Notices(house.database, requests, transport, recipients=recipients, public_url=settings.public_url)


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
    return lambda facts: dev_principal_for(dev_facts(settings, facts, enabled=settings.dev_auth_mode))


def _receiving(house: House) -> Receiving:
    settings = house.settings
    secret = ensure_webhook_secret(settings)
    return Receiving(
        house.database,
        house.envelopes,
        house.vault,
        own_secret=secret.get_secret_value() if secret else None,
        legacy_end=settings.webhook_legacy_end,
        retention=settings.retention_days * DAY,
        may_skip=lambda facts: needs_no_credential(dev_facts(settings, facts, enabled=settings.webhook_allow_unsigned)),
    )


async def _database_answers(house: House) -> bool:
    await house.database.reader.one(select(installation_table.c.id))
    return True


async def _writer_answers(house: House) -> bool:
    # A statement, since a transaction without one never reaches PostgreSQL.
    await house.database.writer.run(lambda tx: tx.one(_ANYTHING))
    return True
