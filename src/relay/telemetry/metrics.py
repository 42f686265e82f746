"""Counting what happens: instruments for the metrics of the catalogue.

Whoever counts asks once, when it is built, and keeps what it gets; label values come in the order of the declaration::

    self._failures = metrics.counter("auth_failures_total")
    self._failures.add("invalid_token", "/actions/execute")

    self._seconds = metrics.histogram("relay_plan_duration_seconds")
    self._seconds.observe(0.25, "local")

    self._fallback = metrics.gauge("relay_limiter_fallback")
    self._fallback.set(1)

A name that is not in the catalogue, or is of another kind, raises at that first moment. Counting itself never raises,
never waits and never makes a series: an event whose label value is not declared is counted in
``relay_metrics_undeclared_total`` instead and logged once for each metric.

One :class:`Metrics` belongs to one open house and is handed down; there is no process-wide registry. With
``TELEMETRY_ENABLED=false`` (or :meth:`Metrics.off`) every instrument does nothing. Instruments may be used from any
thread.
"""

import logging
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, MutableSequence
from typing import Any, Final, TypeVar

from relay.telemetry.catalogue import ACTIONS, BY_NAME, CHECKS, ROUTES, Kind
from relay.telemetry.layout import Layout, Place, Series
from relay.telemetry.slots import Slot

UNDECLARED: Final = "relay_metrics_undeclared_total"

Cells = MutableSequence[float] | memoryview

log = logging.getLogger("relay.telemetry")

_I = TypeVar("_I", bound="_Instrument")


class _Instrument:
    """Finds a series' place. ``_index`` and ``_cells`` are set anew when the open sets of values are known."""

    __slots__ = ("_cells", "_index", "_lock", "_metrics", "name")

    def __init__(self, name: str, metrics: "Metrics") -> None:
        self.name = name
        self._metrics = metrics
        self._lock = metrics.lock
        self._index: Mapping[Series, int] = {}
        self._cells: Any = ()

    def settle(self, place: Place, cells: Any) -> None:
        """Count into ``cells`` from now on. For :class:`Metrics` alone."""
        self._index, self._cells = place.index(), cells

    def has(self, *labels: str) -> bool:
        """Say whether there is a series of these label values."""
        return labels in self._index

    def _undeclared(self) -> None:
        self._metrics.undeclared(self.name)


class Counter(_Instrument):
    """Counts events."""

    __slots__ = ()

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Count ``amount`` more, which is not negative, in the series of these label values."""
        at = self._index.get(labels)
        if at is None:
            self._undeclared()
            return
        with self._lock:
            self._cells[at] += amount


class Gauge(_Instrument):
    """Shows a value of this process."""

    __slots__ = ()

    def set(self, value: float, *labels: str) -> None:
        """Show ``value`` in the series of these label values."""
        at = self._index.get(labels)
        if at is None:
            self._undeclared()
            return
        self._cells[at] = float(value)


class Histogram(_Instrument):
    """Shows how values are distributed."""

    __slots__ = ("_buckets",)

    def settle(self, place: Place, cells: Any) -> None:
        super().settle(place, cells)
        self._buckets = place.metric.buckets

    def observe(self, value: float, *labels: str) -> None:
        """Count one value (seconds, where it is a time) in the series of these label values."""
        at = self._index.get(labels)
        if at is None:
            self._undeclared()
            return
        buckets = self._buckets
        bucket = at + bisect_left(buckets, value)
        cells = self._cells
        with self._lock:
            cells[bucket] += 1.0
            cells[at + len(buckets) + 1] += value


class _NoCounter(Counter):
    __slots__ = ()

    def add(self, *labels: str, amount: float = 1.0) -> None:
        pass


class _NoGauge(Gauge):
    __slots__ = ()

    def set(self, value: float, *labels: str) -> None:
        pass


class _NoHistogram(Histogram):
    __slots__ = ()

    def observe(self, value: float, *labels: str) -> None:
        pass


class Metrics:
    """The instruments of one open house. ``slot`` is this process's share of a group that is scraped as one."""

    def __init__(self, *, enabled: bool = True, slot: Slot | None = None) -> None:
        self.enabled: Final = enabled
        self.lock: Final = threading.Lock()
        self.layout = Layout()
        self.slot: Final = slot
        self._cells: Any = array("d", bytes(8 * self.layout.size))
        self._instruments: dict[str, _Instrument] = {}
        self._said: set[str] = set()
        self._lost = self.counter(UNDECLARED)

    @classmethod
    def off(cls) -> "Metrics":
        """Return metrics that count nothing."""
        return cls(enabled=False)

    @property
    def first(self) -> bool:
        """Whether this process is the one of its group that does what one of them should do."""
        return self.slot is None or self.slot.number == 0

    def counter(self, name: str) -> Counter:
        """Return the counter of that name; ValueError when the catalogue has none."""
        return self._instrument(name, "counter", Counter if self.enabled else _NoCounter)

    def gauge(self, name: str) -> Gauge:
        """Return the gauge of that name; ValueError when the catalogue has none, or one that is read at a scrape."""
        return self._instrument(name, "gauge", Gauge if self.enabled else _NoGauge)

    def histogram(self, name: str) -> Histogram:
        """Return the histogram of that name; ValueError when the catalogue has none."""
        return self._instrument(name, "histogram", Histogram if self.enabled else _NoHistogram)

    def seal(self, *, routes: Iterable[str], actions: Iterable[str], checks: Iterable[str] = ()) -> None:
        """Settle the sets of label values that were open: from now on every series exists. To be called once.

        What was counted before is kept. With a ``slot`` the counts of the process that had it before go on.
        """
        if not self.enabled:
            return
        layout = Layout({ROUTES: routes, ACTIONS: actions, CHECKS: checks})
        cells = array("d", bytes(8 * layout.size)) if self.slot is None else self.slot.attach(layout)
        with self.lock:
            for name, place in self.layout.places.items():
                _carry(self._cells, place, cells, layout.places[name])
            self.layout, self._cells = layout, cells
            for name, instrument in self._instruments.items():
                instrument.settle(layout.places[name], cells)

    def close(self) -> None:
        """Leave the group: gauges of this process are not shown any more, its counts are."""
        if self.slot is not None:
            self.slot.leave()

    def cells(self) -> list[Any]:
        """Return the arrays of every process that is scraped together with this one, dead ones included."""
        return [self._cells] if self.slot is None else self.slot.counted(self.layout)

    def living(self) -> list[Any]:
        """Return the arrays of those that are alive."""
        return [self._cells] if self.slot is None else self.slot.living(self.layout)

    @property
    def defects(self) -> frozenset[str]:
        """The metrics that an event could not be counted in, since a label value was not declared."""
        return frozenset(self._said)

    def undeclared(self, name: str) -> None:
        """Count an event that has no series, and say so once: it is a defect of whoever counts."""
        if name not in self._said:
            self._said.add(name)
            log.error("an event of the metric %s had a label value that is not declared", name)
        self._lost.add()

    def _instrument(self, name: str, kind: Kind, made: type[_I]) -> _I:
        metric = BY_NAME.get(name)
        if metric is None or metric.kind != kind or metric.shared:
            raise ValueError(f"the catalogue has no {kind} {name} that is counted by a process")
        instrument = self._instruments.get(name)
        if instrument is None:
            instrument = self._instruments[name] = made(name, self)
            instrument.settle(self.layout.places[name], self._cells)
        assert isinstance(instrument, made)
        return instrument


def _carry(old: Any, place: Place, new: Any, target: Place) -> None:
    """Add what was counted before the layout was settled; a gauge's value is taken over."""
    index = target.index()
    for series, start in place.index().items():
        for offset in range(place.width):
            at = index[series] + offset
            new[at] = old[start + offset] + (0.0 if place.metric.kind == "gauge" else new[at])
