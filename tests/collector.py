"""A collector of OpenTelemetry on loopback: a real HTTP server that decodes the protobuf it is sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.process import eventually


@dataclass(frozen=True)
class Seen:
    """A span as it was exported; ids in hexadecimal, ``parent`` empty for a root."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    attributes: dict[str, Any]
    failed: bool
    links: list[tuple[str, str]]


@dataclass
class Collector:
    """What came: spans in the order of their ends, metrics by name, the resource of the last export."""

    port: int = 0
    status: int = 200
    spans: list[Seen] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, str] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    async def span(self, name: str, **attributes: str) -> Seen:
        """Return the first span of that name and these attributes (``_`` for a point), once it has come."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}

        async def found() -> Seen | None:
            return next((span for span in self.named(name) if wanted.items() <= span.attributes.items()), None)

        seen: Seen = await eventually(found, seconds=60)
        return seen

    async def _traces(self, request: web.Request) -> web.Response:
        await self._take(request)
        body = ExportTraceServiceRequest.FromString(await request.read())
        if self.status != 200:
            self.refused += 1
            return web.Response(status=self.status)
        for resource in body.resource_spans:
            self.resource = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_seen(span) for span in scope.spans]
        return web.Response(body=b"")

    async def _metrics(self, request: web.Request) -> web.Response:
        await self._take(request)
        body = ExportMetricsServiceRequest.FromString(await request.read())
        for resource in body.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics.update({metric.name: metric for metric in scope.metrics})
        return web.Response(body=b"")

    async def _take(self, request: web.Request) -> None:
        await self.answering.wait()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})


def _plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


def _seen(span: Any) -> Seen:
    assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
    return Seen(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        _plain(span.attributes),
        span.status.code == 2,
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


@asynccontextmanager
async def open_collector() -> AsyncIterator[Collector]:
    """Serve until the block ends."""
    collector = Collector()
    collector.answering.set()
    app = web.Application()
    app.router.add_post("/v1/traces", collector._traces)
    app.router.add_post("/v1/metrics", collector._metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        collector.port = runner.addresses[0][1]
        yield collector
    finally:
        collector.answering.set()
        await runner.cleanup()
