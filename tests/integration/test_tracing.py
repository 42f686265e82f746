"""Traces and metrics as a collector gets them, from real requests through a real gateway."""

import sys
from pathlib import Path
from typing import Any

import pytest

from relay.settings import SettingsError
from relay.store.target import Target
from tests.collector import Collector, Seen, open_collector
from tests.gateway import Gateway
from tests.process import eventually
from tests.receivers import open_receiver
from tests.sending_kit import QUICK, act, endpoint, sending
from tests.sink import open_sink

CANARY = "canary-7b1f"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
SERVER = 2


def exporting(collector: Collector, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-token=not%20so%20secret",
        **more,
    }


async def execute(gateway: Gateway, action: str, params: dict[str, Any], **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"action": action, "params": params}
    return (await gateway.post("/actions/execute", body, key=gateway.admin, headers=sent)).expect(200)


def request_to(url: str, **headers: str) -> dict[str, Any]:
    return {"method": "POST", "url": url, "headers": headers, "body": CANARY}


async def test_a_request_is_a_tree_from_the_edge_to_the_effect(target: Target, tmp_path: Path) -> None:
    async with (
        open_collector() as collector,
        open_sink() as world,
        sending(target, tmp_path, **exporting(collector)) as gateway,
    ):
        url = f"http://127.0.0.1:{world.port}/{CANARY}"
        done = await execute(gateway, "http.request", request_to(url), traceparent=PARENT, X_Request_ID="req_trace_1")
        top = await collector.span("POST /actions/execute")
        assert (top.trace, top.parent, top.kind) == (TRACE, SPAN, SERVER) and not top.failed
        assert top.attributes["http.route"] == "/actions/execute"
        assert top.attributes["http.response.status_code"] == 200
        assert top.attributes["relay.request_id"] == "req_trace_1"
        stages = {name: await collector.span(name) for name in ("decide", "intent", "effect", "outcome")}
        assert all((stage.trace, stage.parent) == (top.trace, top.id) for stage in stages.values())
        assert stages["decide"].attributes["relay.effect"] == "allow"
        assert stages["effect"].attributes["relay.attempt_id"] == done["attempt_id"]
        assert stages["outcome"].attributes["relay.status"] == "succeeded"
        assert collector.resource["service.name"] == "relay"
        assert collector.headers[0]["x-collector-token"] == "not so secret"
        # Nothing that anybody said, and no key, leaves with a span.
        assert CANARY not in repr(collector.spans) and gateway.admin not in repr(collector.spans)
        # Nor has the world been told of the trace.
        assert b"traceparent" not in world.requests[0].lower()


@pytest.mark.parametrize("sent", [f"00-{TRACE}-{SPAN}-1", f"00-{'0' * 32}-{SPAN}-01", f"{PARENT}, {PARENT}"])
async def test_a_malformed_traceparent_begins_a_trace_of_its_own(
    sqlite_target: Target, tmp_path: Path, sent: str
) -> None:
    async with open_collector() as collector, sending(sqlite_target, tmp_path, **exporting(collector)) as gateway:
        await execute(gateway, "relay.echo", {"message": "x"}, traceparent=sent)
        top = await collector.span("POST /actions/execute")
        assert top.parent == "" and top.trace != TRACE


async def test_a_stranger_cannot_have_itself_traced(sqlite_target: Target, tmp_path: Path) -> None:
    async with (
        open_collector() as collector,
        sending(sqlite_target, tmp_path, **exporting(collector, OTEL_TRACES_SAMPLER_ARG="0")) as gateway,
    ):
        await execute(gateway, "relay.echo", {"message": "x"}, traceparent=PARENT)
        assert not gateway.house.traces.waiting
    assert collector.spans == []


async def test_only_named_hosts_are_told_of_a_trace(sqlite_target: Target, tmp_path: Path) -> None:
    more = {"TRACE_PROPAGATE_HOSTS": "127.0.0.1"}
    async with (
        open_collector() as collector,
        open_sink() as world,
        sending(sqlite_target, tmp_path, **exporting(collector, **more)) as gateway,
    ):
        params = request_to(f"http://127.0.0.1:{world.port}/", traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
        await execute(gateway, "http.request", params, traceparent=PARENT)
        effect = await collector.span("effect")
        head = world.requests[0].lower()
        assert f"traceparent: 00-{TRACE}-{effect.id}-01\r\n".encode() in head and head.count(b"traceparent") == 1


async def test_what_a_caller_says_is_passed_on_although_nobody_traces(sqlite_target: Target, tmp_path: Path) -> None:
    named = {"TRACE_PROPAGATE_HOSTS": "127.0.0.1"}
    async with open_sink() as world, sending(sqlite_target, tmp_path, **named) as gateway:
        url = f"http://127.0.0.1:{world.port}/"
        await execute(gateway, "http.request", request_to(url), traceparent=PARENT)
        await execute(gateway, "http.request", request_to(url))
        first, second = (request.lower() for request in world.requests)
        assert f"traceparent: {PARENT}\r\n".encode() in first and b"traceparent" not in second


async def test_a_run_and_a_delivery_know_what_led_to_them(target: Target, tmp_path: Path) -> None:
    async with (
        open_collector() as collector,
        open_receiver() as receiver,
        sending(target, tmp_path, QUICK, **exporting(collector)) as gateway,
    ):
        await endpoint(gateway, receiver.url, "action.succeeded")
        steps = [{"action": "relay.echo", "params": {"message": CANARY}} for _ in range(2)]
        answer = await gateway.post("/ai/execute", {"steps": steps}, key=gateway.admin, headers={"traceparent": PARENT})
        run_id = answer.expect(202)["run_id"]
        ordered = await collector.span("POST /ai/execute")

        async def both() -> list[Seen] | None:
            found = collector.named("run step")
            return found if len(found) == 2 else None

        for step in await eventually(both, seconds=60):
            assert (step.trace, step.parent) == (TRACE, ordered.id)
            assert step.attributes["relay.run_id"] == run_id and step.attributes["relay.status"] == "succeeded"
            assert any(effect.parent == step.id for effect in collector.named("effect"))
        await act(gateway)
        asked = await collector.span("POST /actions/execute")
        delivered = await collector.span("webhook delivery", http__response__status_code=200)

        async def linked() -> bool:
            return any(span.links == [(asked.trace, asked.id)] for span in collector.named("webhook delivery"))

        await eventually(linked, seconds=60)
        assert delivered.parent == "" and delivered.trace != TRACE
        assert CANARY not in repr(collector.spans)


async def test_metrics_are_those_of_the_catalogue(sqlite_target: Target, tmp_path: Path) -> None:
    async with (
        open_collector() as collector,
        sending(sqlite_target, tmp_path, **exporting(collector, OTEL_METRIC_EXPORT_INTERVAL="1000")) as gateway,
    ):
        await act(gateway)

        async def counted() -> bool:
            metric = collector.metrics.get("relay_http_requests_total")
            points = [] if metric is None else metric.sum.data_points
            return any(
                point.as_double == 1.0
                and {pair.key: pair.value.string_value for pair in point.attributes}
                == {"route": "/actions/execute", "status": "2xx"}
                for point in points
            )

        await eventually(counted, seconds=60)
        times = collector.metrics["relay_http_request_duration_seconds"].histogram
        assert times.aggregation_temporality == 2
        for point in times.data_points:
            assert (
                point.count == sum(point.bucket_counts) and len(point.bucket_counts) == len(point.explicit_bounds) + 1
            )
        assert sum(point.count for point in times.data_points) >= 1
        assert collector.metrics["relay_http_requests_total"].sum.is_monotonic
        assert collector.metrics["relay_environment"].gauge.data_points


async def test_without_telemetry_nothing_is_exported(sqlite_target: Target, tmp_path: Path) -> None:
    async with (
        open_collector() as collector,
        sending(sqlite_target, tmp_path, **exporting(collector, TELEMETRY_ENABLED="false")) as gateway,
    ):
        await execute(gateway, "relay.echo", {"message": "x"}, traceparent=PARENT)
        assert gateway.house.traces is None
    assert collector.headers == []


async def test_a_collector_that_hangs_holds_nobody_up(
    sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_collector() as collector, sending(sqlite_target, tmp_path, **exporting(collector)) as gateway:
        collector.answering.clear()
        for _ in range(20):
            await act(gateway)
        collector.status = 503
        collector.answering.set()

        async def refused() -> bool:
            return collector.refused > 0

        await eventually(refused, seconds=60)
        await act(gateway)
        assert gateway.house.traces.waiting and not collector.spans
        collector.status = 200

        async def came() -> bool:
            return len(collector.named("POST /actions/execute")) == 21

        await eventually(came, seconds=90)
    assert "the collector does not take /v1/traces: 503" in caplog.text
    assert "not so secret" not in caplog.text and "x-collector-token" not in caplog.text


async def test_the_missing_extra_is_named_with_the_command_that_installs_it(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry.proto")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto", None)
    with pytest.raises(SettingsError) as refused:
        async with sending(sqlite_target, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"):
            pass
    (problem,) = refused.value.problems
    assert "needs the extra `otel`" in problem and problem.endswith("-r requirements/otel.txt")
    assert (Path(__file__).parents[2] / "requirements/otel.txt").exists()
