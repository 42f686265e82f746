"""What a Grafana dashboard is made of: rows of panels with their queries, and what several dashboards show.

``SEL`` in a query stands for the job and instance that are chosen at the top. Counters are ``sum(rate())``; gauges that
every replica reports alike (``shared`` in the catalogue of metrics) are ``max()``, never ``sum``. Nothing is labelled
with what a caller chose, so no panel has more series than Relay has routes or actions.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["stat", "timeseries", "table", "bars"]
Query = tuple[str, str]
"""An expression in PromQL, and what a series of it is called."""

GOOD_OR_BAD: Final = ((None, "green"), (1, "red"))
GOOD_OR_ODD: Final = ((None, "green"), (1, "orange"))


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``width`` is in columns, of which a row has 24; ``runbooks`` are pages below ``docs/runbooks``."""

    title: str
    description: str
    kind: Kind
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    runbooks: tuple[str, ...] = ()
    steps: tuple[tuple[float | None, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A headline and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; its ``uid`` is its address in Grafana and never changes."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]


def quantiles(name: str, by: str = "") -> tuple[Query, ...]:
    """Return the median and two high quantiles of a histogram, over all labels or by one."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (
            f"histogram_quantile({quantile}, sum by ({labels}) (rate({name}_bucket{{SEL}}[$__rate_interval])))",
            f"p{round(quantile * 100)}{legend}",
        )
        for quantile in ((0.99,) if by else (0.5, 0.95, 0.99))
    )


QUEUE: Final = (
    Panel(
        "Due work",
        "Durable work that is due and that nobody works on. It should be near 0.",
        "timeseries",
        "short",
        (("max by (kind) (relay_queue_depth{SEL})", "{{kind}}"),),
        runbooks=("QueueOverdue",),
    ),
    Panel(
        "Oldest due work",
        "For how long the oldest of it has been due.",
        "timeseries",
        "s",
        (("max by (kind) (relay_queue_oldest_seconds{SEL})", "{{kind}}"),),
        runbooks=("QueueOverdue",),
    ),
)
