"""The composition root of servers and workers: builds everything once, seals the routes, runs what runs by itself."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from sqlalchemy import select
from starlette.types import ASGIApp

from relay.audit.anonymous import AnonymousFailures
from relay.chat.routes import call_routes, chat_routes
from relay.core.clock import DAY
from relay.core.facts import RequestFacts
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.doctor.watch import watch_of
from relay.engine import Engine, note, note_stop
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.gate.limit import RequestLimits
from relay.gate.perform import Performer
from relay.gate.signature import VerifySignature
from relay.house import House
from relay.identity.chat import ChatDoor, ensure_chat_workspace
from relay.identity.dev import dev_facts, dev_principal_for, needs_no_credential
from relay.identity.leak_report import Signers
from relay.identity.operator import operator
from relay.limits.service import LimitService
from relay.monitor import Export, WorkerDoors, count_as, exposition_of, observers_of, require_operator
from relay.settings import Settings, SettingsError
from relay.settings.keys import ensure_webhook_secret
from relay.store.lock import ServerLock
from relay.store.query import Query
from relay.store.tables import installation as installation_table
from relay.surface.application import build_application
from relay.surface.declare import Routes
from relay.surface.edge import edge_of
from relay.surface.observe import Observer
from relay.telemetry.exposition import Exposition
from relay.web.api.actions import actions_routes
from relay.web.api.ai import ai_routes
from relay.web.api.approvals import approvals_routes
from relay.web.api.audit import audit_routes
from relay.web.api.budgets import budgets_routes
from relay.web.api.children import children_routes
from relay.web.api.deliveries import deliveries_routes
from relay.web.api.endpoints import endpoints_routes
from relay.web.api.keys import keys_routes
from relay.web.api.kill_switch import kill_switch_routes
from relay.web.api.leaks import leaks_routes
from relay.web.api.metrics import metrics_routes
from relay.web.api.policies import policies_routes
from relay.web.api.policy_trials import policy_trials_routes
from relay.web.api.receivers import receivers_routes, receiving_routes
from relay.web.api.system import docs_routes, system_routes
from relay.web.api.workspace import workspace_routes
from relay.webhooks.receive import Receiving
from relay.webhooks.receivers import Receivers
from relay.webhooks.schedule import Schedule

_ANYTHING: Final = Query(select(installation_table.c.id))

log = logging.getLogger("relay")


@dataclass(frozen=True, slots=True)
class Server:
    """A gateway that may be served: ``asgi`` is sealed and stamped, ``first_key`` is set once in a database's life.

    Whoever serves it tells ``observers`` of requests that never reach ``asgi``.
    """

    house: House
    asgi: ASGIApp
    fastapi: FastAPI
    performer: Performer
    limits: LimitService
    first_key: str | None
    close_streams: Callable[[], None]
    observers: tuple[Observer, ...]
    exposition: Exposition


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that may be asked for its metrics, and for nothing else."""

    house: House
    asgi: ASGIApp
    observers: tuple[Observer, ...]


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
    engine = Engine(house, listen, schedule or Schedule())
    doors = _Doors(house, engine, failures, listen)
    exported = Export(house, doors.exposition)
    doctor = watch_of(house, engine)
    try:
        exported.start()
        if lock is not None:
            await house.keyring.is_the_only_server()
        await engine.start(work=house.settings.work_in_server)
        if house.metrics.first:
            await house.verifier.start()
            await doctor.start()
        await note(house, "relay:server:started")
        await failures.start()
        await ensure_chat_workspace(house.database, house.settings)
        first_key = await house.api_keys.first_key(operator(), request_id=new_id("req"))
        yield Server(
            house,
            doors.asgi,
            doors.fastapi,
            engine.performer,
            engine.limits,
            first_key,
            engine.close_streams,
            doors.observers,
            doors.exposition,
        )
    finally:
        await doctor.stop()
        await doors.exposition.stop()
        await engine.stop()
        await failures.stop()
        await note_stop(house, "relay:server:stopped")
        await house.heads.stop()
        await exported.stop()
        if lock is not None:
            lock.release()


@asynccontextmanager
async def open_worker(house: House, *, listen: tuple[str, int] | None = None) -> AsyncIterator[Worker | None]:
    """Do the durable work of a shared database, and nothing else, until the block ends.

    ``RELAY_HOST`` and ``RELAY_PORT`` say where the servers listen; egress keeps that closed. ``listen`` is the address
    on which this worker's ``/metrics`` is served, None where it is not; nor is it without telemetry.
    """
    engine = Engine(house, (house.settings.host, house.settings.port), Schedule())
    failures = AnonymousFailures(house.database.writer)
    doors = None if listen is None or not house.metrics.enabled else WorkerDoors(house, engine, failures, listen)
    count_as("worker", house, engine, None if doors is None else doors.application)
    exported = Export(house, exposition_of(house) if doors is None else doors.exposition)
    try:
        exported.start()
        await engine.start(work=True)
        await failures.start()
        await note(house, "relay:worker:started")
        yield None if doors is None else Worker(house, doors.asgi, doors.observers)
    finally:
        if doors is not None:
            await doors.exposition.stop()
        await engine.stop()
        await failures.stop()
        await note_stop(house, "relay:worker:stopped")
        await house.heads.stop()
        await exported.stop()


class _Doors:
    """The HTTP side of a server, sealed. Construction does no I/O but for the secret of ``/webhooks/relay``."""

    def __init__(self, house: House, engine: Engine, failures: AnonymousFailures, listen: tuple[str, int]) -> None:
        settings = house.settings
        self._engine = engine
        self._receiving = _receiving(house)
        self.observers = observers_of(house)
        self.exposition = exposition_of(house)
        self.gate = Gate(
            Authenticate(house.api_keys, failures, _anonymous(settings), engine.unusual, {"chat": ChatDoor(settings)}),
            RequestLimits(engine.limits.rules, engine.limits.limiter, failures),
            VerifySignature(self._receiving, failures),
            require_operator(settings, listen, failures),
        )
        self.fastapi, self.asgi = build_application(
            self._routes(house),
            self.gate.admit,
            body_limit=settings.body_limit_bytes,
            body_seconds=settings.request_timeout_seconds,
            edge=edge_of(settings),
            observers=self.observers,
        )
        count_as("server", house, engine, self.fastapi)

    def _routes(self, house: House) -> list[Routes]:
        settings, engine = house.settings, self._engine
        groups = []
        if settings.actions_enabled:
            groups.append(actions_routes(engine.performer, engine.catalog, engine.requests))
            groups.append(approvals_routes(engine.requests, engine.decisions, engine.performer))
            groups.append(ai_routes(engine.plans, engine.runs, house.api_keys, engine.places))
            groups.append(call_routes(engine.chat, engine.decisions, engine.performer))
        groups.append(chat_routes(engine.chat))
        groups.append(keys_routes(house.api_keys))
        groups.append(children_routes(house.api_keys))
        groups.append(leaks_routes(house.api_keys, _leak_signers(settings)))
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
        if house.metrics.enabled:
            groups.append(metrics_routes(self.exposition))
        groups.append(docs_routes(lambda: self.fastapi.openapi(), public=settings.env == "local"))
        return groups


def _leak_signers(settings: Settings) -> Signers | None:
    """Return the public keys that reports of leaks may be signed with, None where the settings name none."""
    path = settings.leak_report_keys_file
    if path is None:
        return None
    try:
        return Signers.from_json(path.read_bytes())
    except OSError as error:
        raise SettingsError([f"LEAK_REPORT_KEYS_FILE: cannot be read ({type(error).__name__})"]) from None
    except ValueError as error:
        raise SettingsError([f"LEAK_REPORT_KEYS_FILE: {error}"]) from None


def _anonymous(settings: Settings) -> Callable[[RequestFacts], Principal | None] | None:
    if not settings.dev_auth_mode:
        return None
    return lambda facts: dev_principal_for(dev_facts(settings, facts, enabled=settings.dev_auth_mode))


def _receiving(house: House) -> Receiving:
    settings = house.settings
    if ensure_webhook_secret(settings) is not None:
        house.keyring.read_folder()
    return Receiving(
        house.database,
        house.envelopes,
        house.vault,
        own_secrets=house.keyring.accepted_webhook_secrets,
        legacy_end=settings.webhook_legacy_end,
        retention=settings.retention_days * DAY,
        may_skip=lambda facts: needs_no_credential(dev_facts(settings, facts, enabled=settings.webhook_allow_unsigned)),
        metrics=house.metrics,
    )


async def _database_answers(house: House) -> bool:
    await house.database.reader.one(select(installation_table.c.id))
    return True


async def _writer_answers(house: House) -> bool:
    # A statement, since a transaction without one never reaches PostgreSQL.
    await house.database.writer.run(lambda tx: tx.one(_ANYTHING))
    return True
