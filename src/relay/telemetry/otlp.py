"""OTLP, the protocol of OpenTelemetry: spans and metrics as the protobuf messages that collectors take.

The messages come with the extra ``otel``, which is imported when something is to be exported and not before.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import Metric as Family

from relay.telemetry.spans import Value
from relay.telemetry.traces import Span, safe

INSTALL: Final = ".venv/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/otel.txt"
_SCOPE: Final = "relay"
_CUMULATIVE: Final = 2
_ERROR: Final = 2
_SAMPLED: Final = 1
_KINDS: Final = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}


class NoOtel(Exception):
    """The extra ``otel`` is not installed."""


class Encoder:
    """Makes the bodies of exports. ``resource`` says who exports: ``service.name`` and the like."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        try:
            from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
            from opentelemetry.proto.common.v1 import common_pb2
            from opentelemetry.proto.metrics.v1 import metrics_pb2
            from opentelemetry.proto.resource.v1 import resource_pb2
            from opentelemetry.proto.trace.v1 import trace_pb2
        except ImportError:
            raise NoOtel from None
        self._traces: Any = trace_service_pb2
        self._collected: Any = metrics_service_pb2
        self._common: Any = common_pb2
        self._metrics: Any = metrics_pb2
        self._trace: Any = trace_pb2
        self._resource = resource_pb2.Resource(attributes=self._pairs(resource))
        self._scope = common_pb2.InstrumentationScope(name=_SCOPE)
        self._since = time.time_ns()

    def spans(self, spans: Sequence[Span]) -> bytes:
        """Return an ``ExportTraceServiceRequest``."""
        scope = self._trace.ScopeSpans(scope=self._scope, spans=[self._span(span) for span in spans])
        resource = self._trace.ResourceSpans(resource=self._resource, scope_spans=[scope])
        body: bytes = self._traces.ExportTraceServiceRequest(resource_spans=[resource]).SerializeToString()
        return body

    def metrics(self, families: Iterable[Family]) -> bytes:
        """Return an ``ExportMetricsServiceRequest`` of what a scrape would show now."""
        at = time.time_ns()
        found = [self._family(family, at) for family in families]
        scope = self._metrics.ScopeMetrics(scope=self._scope, metrics=found)
        resource = self._metrics.ResourceMetrics(resource=self._resource, scope_metrics=[scope])
        body: bytes = self._collected.ExportMetricsServiceRequest(resource_metrics=[resource]).SerializeToString()
        return body

    def _pairs(self, values: Mapping[str, Value]) -> list[Any]:
        return [self._common.KeyValue(key=name, value=self._any(value)) for name, value in values.items()]

    def _any(self, value: Value) -> Any:
        if isinstance(value, bool):
            return self._common.AnyValue(bool_value=value)
        if isinstance(value, int):
            return self._common.AnyValue(int_value=value)
        if isinstance(value, float):
            return self._common.AnyValue(double_value=value)
        return self._common.AnyValue(string_value=str(safe(value)).encode("utf-8", "replace").decode())

    def _span(self, span: Span) -> Any:
        message = self._trace.Span(
            trace_id=bytes.fromhex(span.place.trace_id),
            span_id=bytes.fromhex(span.place.span_id),
            parent_span_id=bytes.fromhex(span.parent),
            name=span.title,
            kind=_KINDS[span.kind],
            start_time_unix_nano=span.began,
            end_time_unix_nano=span.ended,
            attributes=self._pairs(span.attributes),
            flags=_SAMPLED,
        )
        if span.failed:
            message.status.code = _ERROR
            message.attributes.extend(self._pairs({"error.type": span.failed}))
        if span.cause is not None:
            message.links.add(trace_id=bytes.fromhex(span.cause.trace_id), span_id=bytes.fromhex(span.cause.span_id))
        return message

    def _family(self, family: Family, at: int) -> Any:
        message = self._metrics.Metric(name=_name(family), description=family.documentation)
        if family.type == "histogram":
            message.histogram.aggregation_temporality = _CUMULATIVE
            for labels, samples in _series(family):
                message.histogram.data_points.append(self._histogram(labels, samples, at))
            return message
        points = message.gauge.data_points
        if family.type == "counter":
            message.sum.aggregation_temporality, message.sum.is_monotonic = _CUMULATIVE, True
            points = message.sum.data_points
        for sample in family.samples:
            points.add(
                attributes=self._pairs(sample.labels),
                start_time_unix_nano=self._since if family.type == "counter" else 0,
                time_unix_nano=at,
                as_double=sample.value,
            )
        return message

    def _histogram(self, labels: Mapping[str, str], samples: Mapping[str, float], at: int) -> Any:
        bounds = [name for name in samples if name not in ("count", "sum", "+Inf")]
        below = [samples[name] for name in (*bounds, "+Inf")]
        return self._metrics.HistogramDataPoint(
            attributes=self._pairs(labels),
            start_time_unix_nano=self._since,
            time_unix_nano=at,
            count=int(samples["count"]),
            sum=samples["sum"],
            explicit_bounds=[float(name) for name in bounds],
            bucket_counts=[int(high - low) for low, high in zip([0.0, *below], below, strict=False)],
        )


def _name(family: Family) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    return family.name + suffix


def _series(family: Family) -> list[tuple[dict[str, str], dict[str, float]]]:
    """Return the samples of a histogram by their labels: each bucket's count by its bound, ``count`` and ``sum``."""
    found: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        samples = found.setdefault(tuple(sorted(labels.items())), {})
        if sample.name.endswith("_bucket"):
            samples[sample.labels["le"]] = sample.value
        else:
            samples[sample.name.removeprefix(family.name + "_")] = sample.value
    return [(dict(labels), samples) for labels, samples in found.items()]
