"""Where each series of the catalogue stands in one flat array of numbers: its size is known once the routes are."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Final

from relay.telemetry.catalogue import ACTIONS, BY_NAME, METRICS, OPEN, ROUTES, Metric

Series = tuple[str, ...]
"""The values of a metric's labels, in the order of its declaration."""

NO_ROUTE: Final = "(none)"
"""What stands for the route of a request that no route answered."""

OTHER_ACTION: Final = "(other)"
"""What stands for an action that this installation had once and has no more."""

_SUM: Final = 1
_BEYOND: Final = 1


@dataclass(frozen=True, slots=True)
class Place:
    """One metric's part of the array: ``width`` numbers for each series.

    A counter or gauge has one; a histogram one for each bucket, one for what exceeds them all, and the sum.
    """

    metric: Metric
    series: tuple[Series, ...]
    start: int
    width: int

    def index(self) -> dict[Series, int]:
        """Return where each series begins."""
        return {series: self.start + number * self.width for number, series in enumerate(self.series)}


class Layout:
    """The places of every metric that is counted in an array: all but the ``shared`` gauges and the infos.

    ``values`` gives the values of the sets in :data:`~relay.telemetry.catalogue.OPEN`; without them the metrics that
    need them have no series yet.
    """

    def __init__(self, values: Mapping[str, Iterable[str]] | None = None, metrics: Sequence[Metric] = METRICS) -> None:
        given = {name: tuple(dict.fromkeys(found)) for name, found in (values or {}).items()}
        if ACTIONS in given:
            given[ACTIONS] = (*given[ACTIONS], OTHER_ACTION)
        if ROUTES in given:
            given[ROUTES] = (*given[ROUTES], NO_ROUTE)
        self.places: dict[str, Place] = {}
        size = 0
        for metric in metrics:
            if metric.shared or metric.kind == "info":
                continue
            width = len(metric.buckets) + _BEYOND + _SUM if metric.kind == "histogram" else 1
            place = Place(metric, series_of(metric, given), size, width)
            self.places[metric.name] = place
            size += width * len(place.series)
        self.size: Final = size

    @cached_property
    def fingerprint(self) -> float:
        """A number that differs between layouts, never 0: processes of two versions must not read one another."""
        text = repr([(name, place.series, place.metric.buckets) for name, place in self.places.items()])
        return float(zlib.crc32(text.encode()) + 1)


def series_of(metric: Metric, values: Mapping[str, Sequence[str]]) -> tuple[Series, ...]:
    """Return every series of a metric; none while an open set that it needs is not in ``values``."""
    if metric.series:
        return metric.series
    sets: list[Sequence[str]] = []
    for label in metric.labels.values():
        if isinstance(label, str):
            if label not in OPEN:
                raise ValueError(f"{metric.name}: {label!r} is no set of label values")
            sets.append(values.get(label, ()))
        else:
            sets.append(label)
    return tuple(product(*sets))


def zeros(*names: str) -> dict[str, dict[Series, float]]:
    """Return gauges that are read at a scrape with every series of a closed set at 0, for a source to fill in."""
    return {name: dict.fromkeys(series_of(BY_NAME[name], {}), 0.0) for name in names}
