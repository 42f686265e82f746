"""What exports telemetry goes on, whatever a single span, reading or answer does to it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import Metric as Family

from relay.telemetry import exporter as exporting
from relay.telemetry.exporter import Exporter
from relay.telemetry.otlp import Encoder
from relay.telemetry.traces import Traces
from tests.process import eventually

NO_PROTOBUF_INTEGER = 2**70
TRACES, METRICS = "/v1/traces", "/v1/metrics"


class Taken:
    """Takes exports; breaks once for each path that is in ``breaks``."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.breaks: set[str] = set()
        self.closed = False

    async def post(self, path: str, body: bytes) -> int:
        if path in self.breaks:
            self.breaks.discard(path)
            raise RuntimeError("a defect")
        self.bodies.append((path, body))
        return 200

    async def close(self) -> None:
        self.closed = True

    def spans(self) -> list[str]:
        requests = [ExportTraceServiceRequest.FromString(body) for path, body in self.bodies if path == TRACES]
        return [
            span.name
            for one in requests
            for resource in one.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def sees(self, name: str) -> None:
        async def seen() -> bool:
            return name in self.spans()

        await eventually(seen, seconds=60)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "SPANS_SECONDS", 0.01)


@asynccontextmanager
async def running(traces: Traces, taken: Taken) -> AsyncIterator[Exporter]:
    exporter = Exporter(Encoder({"service.name": "relay"}), taken.post, traces, taken.close)
    exporter.start()
    try:
        yield exporter
    finally:
        await exporter.stop()


def record(traces: Traces, name: str, **attributes: int) -> None:
    traces.begin(name, "server", None, None, attributes).end()


async def test_a_span_that_can_be_no_message_costs_its_batch_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    traces, taken = Traces(1.0), Taken()
    async with running(traces, taken):
        record(traces, "impossible", number=NO_PROTOBUF_INTEGER)

        async def dropped() -> bool:
            return not traces.waiting

        await eventually(dropped, seconds=60)
        record(traces, "good")
        await taken.sees("good")
    assert taken.spans() == ["good"]
    assert "1 spans could not be encoded" in caplog.text


async def test_an_export_that_breaks_is_tried_again() -> None:
    traces, taken = Traces(1.0), Taken()
    taken.breaks = {TRACES}
    async with running(traces, taken):
        record(traces, "kept")
        await taken.sees("kept")


async def test_metrics_are_exported_after_a_collection_that_broke() -> None:
    traces, taken, asked = Traces(1.0), Taken(), 0

    async def collect() -> Iterable[Family]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("a defect")
        return []

    async with running(traces, taken) as exporter:
        exporter.export_metrics(collect, 0.01)

        async def came() -> bool:
            return any(path == METRICS for path, _ in taken.bodies)

        await eventually(came, seconds=60)


async def test_a_last_export_that_breaks_keeps_nothing_from_ending() -> None:
    traces, taken = Traces(1.0), Taken()

    async def collect() -> Iterable[Family]:
        raise RuntimeError("a defect")

    async with running(traces, taken) as exporter:
        exporter.export_metrics(collect, 3600)
        await asyncio.sleep(0)
    assert taken.closed
