"""Reading metrics: what a scrape shows, by name and labels."""

from collections.abc import Mapping

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from relay.telemetry.exposition import Exposition
from relay.telemetry.metrics import Metrics
from tests.gateway import Gateway

Key = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> list[Sample]:
    """Return every sample of a scrape."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def openmetrics_samples(text: str) -> list[Sample]:
    """Return every sample of a scrape in OpenMetrics, which is parsed strictly."""
    return [sample for family in openmetrics.text_string_to_metric_families(text) for sample in family.samples]


def samples_of(metrics: Metrics) -> list[Sample]:
    """Return what these metrics show, without any source."""
    return [sample for family in Exposition(metrics, {}).registry().collect() for sample in family.samples]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return the value of one series."""
    return pick(samples_of(metrics), name, **labels)


def pick(found: list[Sample], name: str, **labels: str) -> float:
    """Return the value of the one series of that name that has these labels."""
    (sample,) = [s for s in found if s.name == name and labels.items() <= s.labels.items()]
    return float(sample.value)


async def scrape(gateway: Gateway) -> list[Sample]:
    """Scrape a gateway from its own machine."""
    answer = await gateway.get("/metrics")
    assert answer.status == 200, answer.body
    return samples(answer.body.decode())


def by_key(found: list[Sample]) -> dict[Key, float]:
    """Return samples by name and labels."""
    return {(s.name, frozenset(s.labels.items())): s.value for s in found}


def changes(before: list[Sample], after: list[Sample]) -> dict[str, dict[str, float]]:
    """Return what moved between two scrapes: for each name, by its label values, the difference."""
    old, moved = by_key(before), dict[str, dict[str, float]]()
    for sample in after:
        key = sample.name, frozenset(sample.labels.items())
        if sample.value != old.get(key, 0.0):
            moved.setdefault(sample.name, {})[_shown(sample.labels)] = sample.value - old.get(key, 0.0)
    return moved


def _shown(labels: Mapping[str, str]) -> str:
    return " ".join(labels[name] for name in sorted(labels))
