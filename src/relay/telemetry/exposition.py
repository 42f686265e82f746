"""What a scrape is answered: the counts of every process of the group, and what was read for it, as text."""

import asyncio
import logging
import platform
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client import Metric as Family
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from relay import __version__
from relay.telemetry.catalogue import METRICS, Metric
from relay.telemetry.layout import Place, Series
from relay.telemetry.metrics import Metrics

READ_SECONDS: Final = 2.0
"""How long a scrape waits for what it has to read; the process's own counts are shown in any case."""

Values = Mapping[str, Mapping[Series, float]]
"""Gauges by name, and in each the value of every series."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is read at a scrape, and for how many seconds it may be shown again: scraping often costs it nothing."""

    read: Callable[[], Awaitable[Values]]
    fresh: float = 5.0


SOURCE_UP: Final = "relay_metrics_source_up"

_TEXT: Final = (generate_latest, CONTENT_TYPE_PLAIN_0_0_4)
_OPENMETRICS: Final = (generate_openmetrics, CONTENT_TYPE_OPENMETRICS)
_QUALITY: Final = re.compile(r"q=(0(?:\.[0-9]{1,3})?|1(?:\.0{1,3})?)")

log = logging.getLogger("relay.telemetry")


@dataclass(slots=True)
class _Cached:
    """One source: what it said last, and when it was asked. One reading at a time, whoever asks for it."""

    source: Source
    values: Values | None = None
    asked: float = float("-inf")
    task: "asyncio.Task[None] | None" = field(default=None)


class Exposition:
    """Answers scrapes. ``sources`` are read for it, by the names of the label of ``relay_metrics_source_up``."""

    def __init__(self, metrics: Metrics, sources: Mapping[str, Source]) -> None:
        self._metrics = metrics
        self._sources = {name: _Cached(source) for name, source in sources.items()}
        self._encoding = asyncio.Lock()

    async def answer(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its media type: OpenMetrics where ``accept`` asks for it, else Prometheus text.

        It never fails for a source: one that does not answer within two seconds has its gauges left out, and
        ``relay_metrics_source_up`` says so.
        """
        await self._read_sources()
        encode, media_type = _OPENMETRICS if _prefers_openmetrics(accept) else _TEXT
        # In a thread, since some thousand lines take milliseconds that other requests should not wait for, and one at a
        # time: a crowd of scrapes would keep every thread of the process busy, and requests from being answered.
        async with self._encoding:
            return await asyncio.to_thread(encode, self.registry()), media_type

    async def collect(self) -> list[Family]:
        """Return what a scrape would show, for an exporter of another form."""
        await self._read_sources()
        return await asyncio.to_thread(lambda: list(self.registry().collect()))

    async def _read_sources(self) -> None:
        await asyncio.gather(*(self._refresh(name, source) for name, source in self._sources.items()))

    def registry(self) -> "Families":
        """Return what prometheus-client's encoders take for a registry: the state of this moment."""
        return Families(self._metrics, self._read())

    async def stop(self) -> None:
        """End what is still being read."""
        tasks = [source.task for source in self._sources.values() if source.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh(self, name: str, source: _Cached) -> None:
        if source.task is None:
            if time.monotonic() - source.asked < source.source.fresh:
                return
            source.asked = time.monotonic()
            source.task = asyncio.create_task(self._ask(name, source), name=f"metrics-{name}")
        # The reading goes on when this scrape gives up on it: cancelled readings would pile up in a slow database.
        _, pending = await asyncio.wait({source.task}, timeout=READ_SECONDS)
        if pending:
            source.values = None

    async def _ask(self, name: str, source: _Cached) -> None:
        try:
            source.values = await source.source.read()
        except Exception as error:  # whatever broke, the counts of this process are still worth showing
            source.values = None
            log.warning("the metrics' source %s could not be read: %s", name, type(error).__name__)
        finally:
            source.task = None

    def _read(self) -> dict[str, Mapping[Series, float]]:
        found: dict[str, Mapping[Series, float]] = {
            SOURCE_UP: {(name,): float(source.values is not None) for name, source in self._sources.items()}
        }
        for source in self._sources.values():
            found.update(source.values or {})
        return found


class Families:
    """Every metric of the group with its samples, as prometheus-client has them."""

    def __init__(self, metrics: Metrics, read: Mapping[str, Mapping[Series, float]]) -> None:
        self._places = metrics.layout.places
        self._counted = metrics.cells()
        self._living = metrics.living()
        self._read = read

    def collect(self) -> Iterator[Family]:
        """Yield the metrics in the order of the catalogue; without those that could not be read."""
        for metric in METRICS:
            family = self._family(metric)
            if family is not None:
                yield family

    def _family(self, metric: Metric) -> Family | None:
        if metric.kind == "info":
            return InfoMetricFamily(
                metric.name.removesuffix("_info"),
                metric.meaning,
                {"version": __version__, "python": platform.python_version()},
            )
        if metric.shared:
            values = self._read.get(metric.name)
            return None if values is None else _gauge(metric, values)
        place = self._places[metric.name]
        if metric.kind == "gauge":
            return _gauge(metric, {series: self._merged(metric, at) for series, at in place.index().items()})
        return self._histogram(place) if metric.kind == "histogram" else self._counter(place)

    def _counter(self, place: Place) -> Family:
        family = CounterMetricFamily(place.metric.name, place.metric.meaning, labels=list(place.metric.labels))
        for series, at in place.index().items():
            family.add_metric(list(series), self._sum(at))
        return family

    def _histogram(self, place: Place) -> Family:
        metric = place.metric
        family = HistogramMetricFamily(metric.name, metric.meaning, labels=list(metric.labels))
        bounds = [*(_bound(value) for value in metric.buckets), "+Inf"]
        for series, start in place.index().items():
            counts = accumulate(self._sum(start + number) for number in range(len(bounds)))
            family.add_metric(
                list(series), list(zip(bounds, counts, strict=True)), sum_value=self._sum(start + len(bounds))
            )
        return family

    def _merged(self, metric: Metric, at: int) -> float:
        found = [cells[at] for cells in self._living]
        return float(sum(found) if metric.summed else max(found, default=0.0))

    def _sum(self, at: int) -> float:
        return float(sum(cells[at] for cells in self._counted))


def _prefers_openmetrics(accept: str) -> bool:
    """Say whether ``Accept`` (RFC 9110, 12.5.1) names OpenMetrics, and plain text not above it."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name in wanted:
            wanted[name] = max(wanted[name], _quality(parameters))
    return wanted["application/openmetrics-text"] > 0 and wanted["application/openmetrics-text"] >= wanted["text/plain"]


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if match := _QUALITY.fullmatch(parameter):
            return float(match[1])
    return 1.0


def _gauge(metric: Metric, values: Mapping[Series, float]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=list(metric.labels))
    for series, value in values.items():
        family.add_metric(list(series), value)
    return family


def _bound(value: float) -> str:
    return repr(float(value))
