"""Watching a server or worker: what its metrics count and read, who may see them, and the worker's one route."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from fastapi import FastAPI
from starlette.types import ASGIApp

from relay import __version__
from relay.audit.anonymous import AnonymousFailures
from relay.core.clock import DAY, MICROSECONDS, now
from relay.core.facts import RequestFacts
from relay.core.ids import new_id
from relay.doctor.registry import names
from relay.egress.collector import Collector
from relay.engine import Engine
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.gate.limit import RequestLimits
from relay.gate.operator import RequireOperator
from relay.house import House
from relay.identity.dev import dev_facts, is_direct_and_local
from relay.rotation.workspaces import oldest
from relay.settings import Settings, SettingsError
from relay.settings.export import header_pairs
from relay.store.measures import Measures
from relay.surface.access_log import AccessLog
from relay.surface.application import build_application
from relay.surface.counted import CountedRequests
from relay.surface.declare import GuardedRoute
from relay.surface.edge import Edge
from relay.surface.observe import Observer
from relay.surface.security_log import SecurityLines
from relay.surface.traced import TracedRequests
from relay.telemetry.catalogue import SECRETS, SECRETS_OF_WORKSPACES
from relay.telemetry.exporter import Exporter
from relay.telemetry.exposition import Exposition, Source, Values
from relay.telemetry.metrics import Metrics
from relay.telemetry.otlp import INSTALL, Encoder, NoOtel
from relay.web.api.metrics import metrics_routes

SLOW_SECONDS: Final = 60.0
"""For how long what changes slowly is shown again without being read."""


def observers_of(house: House) -> tuple[Observer, ...]:
    """Return who is told of every request."""
    told: list[Observer] = []
    if house.metrics.enabled:
        told.append(CountedRequests(house.metrics))
    if house.settings.access_log:
        told.append(AccessLog())
    # The last one, so that what the others log is still within the request's span.
    return (*told, SecurityLines(house.security), TracedRequests(house.traces))


class Export:
    """Sends traces and metrics to the collector that the settings name; does nothing where they name none."""

    def __init__(self, house: House, exposition: Exposition) -> None:
        self._house = house
        self._exposition = exposition
        self._exporter: Exporter | None = None

    def start(self) -> None:
        """Begin; :class:`~relay.settings.SettingsError` when the extra that it needs is not installed."""
        house, settings = self._house, self._house.settings
        endpoint = settings.otel_exporter_otlp_endpoint
        if house.traces is None or endpoint is None:
            return
        resource = {
            "service.name": settings.otel_service_name,
            "service.version": __version__,
            "service.instance.id": new_id("ins"),
            "deployment.environment.name": settings.env,
        }
        try:
            encoder = Encoder(resource)
        except NoOtel:
            raise SettingsError(
                [f"OTEL_EXPORTER_OTLP_ENDPOINT: needs the extra `otel`; in the checkout run: {INSTALL}"]
            ) from None
        collector = Collector(endpoint, header_pairs(settings), settings.otel_exporter_otlp_certificate)
        self._exporter = Exporter(encoder, collector.post, house.traces, collector.close)
        self._exporter.start()
        if house.metrics.first:
            self._exporter.export_metrics(self._exposition.collect, settings.otel_metric_export_interval / 1000)

    async def stop(self) -> None:
        """Send what is there, for a moment, and end."""
        if self._exporter is not None:
            await self._exporter.stop()


def exposition_of(house: House) -> Exposition:
    """Return what answers scrapes."""
    measures = Measures(house.database.reader)
    sources: Mapping[str, Source] = {
        "database": Source(measures.read),
        "keys": Source(measures.keys, SLOW_SECONDS),
        "secrets": Source(lambda: _secrets(house), SLOW_SECONDS),
    }
    return Exposition(house.metrics, sources)


async def _secrets(house: House) -> Values:
    period = house.settings.secret_period_days * DAY / MICROSECONDS
    owned = await oldest(house.database.reader, house.envelopes)
    found = house.secret_ages() | {name: age.seconds(now()) for name, age in owned.items()}
    return {
        "relay_secret_age_seconds": {(name,): age for name, age in found.items()},
        "relay_secret_period_seconds": {(name,): period for name in (*SECRETS, *SECRETS_OF_WORKSPACES)},
    }


def require_operator(settings: Settings, listen: tuple[str, int], failures: AnonymousFailures) -> RequireOperator:
    """Return who is the operator of a process that listens there: its token, or this very machine."""

    def is_local(facts: RequestFacts) -> bool:
        return is_direct_and_local(replace(dev_facts(settings, facts, enabled=True), bind=listen[0]))

    token = settings.metrics_token
    return RequireOperator(token.get_secret_value() if token else None, is_local, failures)


def count_as(kind: Literal["server", "worker"], house: House, engine: Engine, application: FastAPI | None) -> None:
    """Settle the values of the labels, and show what holds for the life of the process."""
    routes = [] if application is None else application.routes
    templates = [route.path_format for route in routes if isinstance(route, GuardedRoute)]
    actions = [spec.name for spec in engine.catalog]
    house.metrics.seal(routes=templates, actions=actions, checks=names())
    _show_modes(house.metrics, house.settings)
    house.metrics.gauge("relay_processes").set(1, kind)


def _show_modes(metrics: Metrics, settings: Settings) -> None:
    metrics.gauge("relay_environment").set(1, settings.env)
    modes = metrics.gauge("relay_development_mode")
    modes.set(float(settings.dev_auth_mode), "dev_auth")
    modes.set(float(settings.webhook_allow_unsigned), "unsigned_webhooks")
    modes.set(float(settings.chat_pilot_mode), "chat_pilot")


class WorkerDoors:
    """The HTTP side of a worker: ``/metrics`` behind the same locks as a server's routes, and nothing else."""

    def __init__(self, house: House, engine: Engine, failures: AnonymousFailures, listen: tuple[str, int]) -> None:
        settings = house.settings
        self.observers = observers_of(house)
        self.exposition = exposition_of(house)
        gate = Gate(
            Authenticate(house.api_keys, failures),
            RequestLimits(engine.limits.rules, engine.limits.limiter, failures),
            require_operator=require_operator(settings, listen, failures),
        )
        application, asgi = build_application(
            [metrics_routes(self.exposition)],
            gate.admit,
            body_limit=settings.body_limit_bytes,
            body_seconds=settings.request_timeout_seconds,
            edge=Edge(bind=listen[0]),
            observers=self.observers,
        )
        self.application: Final[FastAPI] = application
        self.asgi: Final[ASGIApp] = asgi
