"""Instruments: what is declared is counted, what is not makes no series, and nothing raises where it counts."""

import asyncio
import multiprocessing
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.telemetry import exposition
from relay.telemetry.catalogue import BY_NAME, METRICS, OPEN, VIOLATIONS
from relay.telemetry.exposition import Exposition, Families
from relay.telemetry.layout import NO_ROUTE, OTHER_ACTION, Layout, series_of
from relay.telemetry.metrics import UNDECLARED, Metrics
from relay.telemetry.slots import CAPACITY, Slots
from tests.metrics_kit import samples_of, value

ROUTES = ["/actions", "/keys/{key_id}"]
ACTIONS = ["email.send", "relay.echo"]
CHECKS = ["schema"]


def sealed(**options: object) -> Metrics:
    metrics = Metrics(**options)
    metrics.seal(routes=ROUTES, actions=ACTIONS, checks=CHECKS)
    return metrics


def test_every_series_is_there_before_anything_happens() -> None:
    found = samples_of(sealed())
    for metric in METRICS:
        if metric.shared or metric.kind == "info":
            continue
        expected = series_of(
            metric, {"route": [*ROUTES, NO_ROUTE], "action": [*ACTIONS, OTHER_ACTION], "check": CHECKS}
        )
        assert expected, metric.name
        suffix = "_count" if metric.kind == "histogram" else ""
        shown = {
            tuple(sample.labels[label] for label in metric.labels)
            for sample in found
            if sample.name == metric.name + suffix
        }
        assert shown == set(expected), metric.name
        assert all(sample.value == 0 for sample in found if sample.name.startswith(metric.name))


def test_counting_moves_one_series_and_no_other() -> None:
    metrics = sealed()
    counter = metrics.counter("auth_failures_total")
    counter.add("invalid_token", "/actions")
    counter.add("invalid_token", "/actions", amount=2)
    moved = [sample for sample in samples_of(metrics) if sample.value and not sample.name.endswith("_info")]
    assert [(s.name, s.labels, s.value) for s in moved] == [
        ("auth_failures_total", {"reason": "invalid_token", "endpoint": "/actions"}, 3.0)
    ]


def test_a_gauge_shows_its_last_value() -> None:
    metrics = sealed()
    gauge = metrics.gauge("relay_limiter_fallback")
    gauge.set(1)
    assert value(metrics, "relay_limiter_fallback") == 1
    gauge.set(0)
    assert value(metrics, "relay_limiter_fallback") == 0


@given(st.lists(st.floats(0, 100), max_size=30))
def test_a_histogram_counts_each_value_in_every_bucket_that_holds_it(seen: list[float]) -> None:
    metrics = sealed()
    histogram = metrics.histogram("relay_plan_duration_seconds")
    for seconds in seen:
        histogram.observe(seconds, "local")
    name = "relay_plan_duration_seconds"
    for bound in BY_NAME[name].buckets:
        assert value(metrics, f"{name}_bucket", planner="local", le=repr(float(bound))) == sum(s <= bound for s in seen)
    assert value(metrics, f"{name}_bucket", planner="local", le="+Inf") == len(seen)
    assert value(metrics, f"{name}_count", planner="local") == len(seen)
    assert value(metrics, f"{name}_sum", planner="local") == pytest.approx(sum(seen))


@given(st.lists(st.lists(st.text(max_size=20), max_size=4), max_size=5))
def test_what_is_not_declared_makes_no_series_and_no_error(labels: list[list[str]]) -> None:
    metrics = sealed()
    before = {(s.name, tuple(s.labels.items())) for s in samples_of(metrics)}
    declared = {("missing_token", route) for route in [*ROUTES, NO_ROUTE]}
    strange = [found for found in labels if tuple(found) not in declared]
    for found in strange:
        metrics.counter("auth_failures_total").add(*found)
        metrics.histogram("relay_attempt_duration_seconds").observe(1.0, *found, "and more")
        metrics.gauge("relay_environment").set(1.0, *found, "and more")
    after = samples_of(metrics)
    assert {(s.name, tuple(s.labels.items())) for s in after} == before
    assert {s.name: s.value for s in after if s.value and s.name != "relay_build_info"} == (
        {UNDECLARED: 3.0 * len(strange)} if strange else {}
    )


def test_what_is_not_declared_is_said_once_and_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    metrics = sealed()
    for _ in range(3):
        metrics.counter("rate_limit_hits_total").add("/secret-path\nforged")
    assert [record.getMessage() for record in caplog.records] == [
        "an event of the metric rate_limit_hits_total had a label value that is not declared"
    ]
    assert metrics.defects == {"rate_limit_hits_total"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("counter", "relay_no_such_total"),
        ("counter", "relay_limiter_fallback"),
        ("gauge", "auth_failures_total"),
        ("gauge", "relay_runs"),
        ("histogram", "relay_build_info"),
    ],
)
@pytest.mark.parametrize("enabled", [True, False])
def test_a_name_of_no_such_instrument_is_refused_when_it_is_asked_for(kind: str, name: str, enabled: bool) -> None:
    with pytest.raises(ValueError, match=name):
        getattr(Metrics(enabled=enabled), kind)(name)


def test_what_was_counted_before_the_sets_are_known_is_kept() -> None:
    metrics = Metrics()
    early, mode = metrics.counter("relay_audit_events_total"), metrics.gauge("relay_limiter_shared")
    early.add(amount=2)
    mode.set(1)
    metrics.seal(routes=ROUTES, actions=ACTIONS)
    early.add()
    assert value(metrics, "relay_audit_events_total") == 3
    assert value(metrics, "relay_limiter_shared") == 1


def test_off_counts_nothing_and_takes_everything() -> None:
    metrics = Metrics.off()
    metrics.seal(routes=ROUTES, actions=ACTIONS)
    metrics.counter("auth_failures_total").add("whatever")
    metrics.gauge("relay_limiter_fallback").set(1)
    metrics.histogram("relay_audit_batch_size").observe(3)
    assert not any(any(cells) for cells in metrics.cells())


def test_threads_lose_no_count() -> None:
    metrics = sealed()
    counter, histogram = metrics.counter("relay_audit_events_total"), metrics.histogram("relay_audit_batch_size")

    def count() -> None:
        for _ in range(20_000):
            counter.add()
            histogram.observe(1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(metrics, "relay_audit_events_total") == 80_000
    assert value(metrics, "relay_audit_batch_size_sum") == 80_000


# Several processes, each in its slot.

SPAWN = multiprocessing.get_context("spawn")


def test_processes_are_summed_and_the_dead_ones_gauges_vanish() -> None:
    slots = Slots(SPAWN, 2)
    first, second = sealed(slot=slots.slot(0)), sealed(slot=slots.slot(1))
    first.counter("relay_audit_events_total").add(amount=5)
    second.counter("relay_audit_events_total").add(amount=7)
    second.histogram("relay_audit_batch_size").observe(3)
    second.gauge("relay_limiter_fallback").set(1)
    for metrics in (first, second):
        metrics.gauge("relay_processes").set(1, "server")
    assert value(first, "relay_audit_events_total") == value(second, "relay_audit_events_total") == 12
    assert value(first, "relay_limiter_fallback") == 1
    assert value(first, "relay_processes", kind="server") == 2
    slots.vacate(1)
    assert value(first, "relay_audit_events_total") == 12
    assert value(first, "relay_audit_batch_size_count") == 1
    assert value(first, "relay_limiter_fallback") == 0
    assert value(first, "relay_processes", kind="server") == 1


def test_the_process_that_follows_counts_on_and_begins_with_no_gauge() -> None:
    slots = Slots(SPAWN, 2)
    watcher, dying = sealed(slot=slots.slot(0)), sealed(slot=slots.slot(1))
    dying.counter("relay_audit_events_total").add(amount=7)
    dying.gauge("relay_limiter_fallback").set(1)
    dying.gauge("relay_doctor_failing").set(1, "schema")
    slots.vacate(1)
    following = Metrics(slot=slots.slot(1))
    following.counter("relay_audit_events_total").add()  # before it knows its routes
    following.seal(routes=ROUTES, actions=ACTIONS, checks=CHECKS)
    following.counter("relay_audit_events_total").add()
    assert value(watcher, "relay_audit_events_total") == 9
    assert value(watcher, "relay_limiter_fallback") == 0
    assert value(watcher, "relay_doctor_failing", check="schema") == 0


def test_a_process_with_another_layout_is_not_read_as_if_it_had_ours() -> None:
    slots = Slots(SPAWN, 2)
    ours, theirs = sealed(slot=slots.slot(0)), Metrics(slot=slots.slot(1))
    theirs.seal(routes=["/other"], actions=ACTIONS, checks=CHECKS)
    (cells,) = theirs.cells()
    for at in range(len(cells)):
        cells[at] = 100.0
    ours.counter("relay_audit_events_total").add()
    shown = [s for s in samples_of(ours) if s.value and s.name != "relay_build_info"]
    assert [(s.name, s.value) for s in shown] == [("relay_audit_events_total", 1.0)]
    replacing = sealed(slot=slots.slot(1))
    assert value(ours, "relay_audit_events_total") == value(replacing, "relay_audit_events_total") == 1


def test_a_slot_holds_several_times_what_there_is() -> None:
    many = [f"/route/{number}" for number in range(300)]
    assert Layout({"route": many, "action": many[:100], "check": many[:100]}).size < CAPACITY
    with pytest.raises(ValueError, match="numbers"):
        Metrics(slot=Slots(SPAWN, 1).slot(0)).seal(routes=[f"/{n}" for n in range(5_000)], actions=())


# The catalogue itself.


def test_names_are_unique_and_of_the_form_that_prometheus_wants() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert metric.meaning.endswith(".") and metric.meaning.isprintable(), metric.name
        for values in metric.labels.values():
            assert values in OPEN if isinstance(values, str) else len(set(values)) == len(values), metric.name


def test_each_violation_has_the_series_of_its_own_severity_alone() -> None:
    found = {s.labels["type"]: s.labels["severity"] for s in samples_of(sealed()) if "violations_total" in s.name}
    assert found == VIOLATIONS


def test_a_list_of_combinations_names_declared_values() -> None:
    for metric in METRICS:
        for series in metric.series:
            for found, values in zip(series, metric.labels.values(), strict=True):
                assert found in values, metric.name


async def test_a_crowd_of_scrapes_keeps_one_thread_busy_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0
    count = threading.Lock()

    def encode(_: Families) -> bytes:
        nonlocal at_once, most
        with count:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with count:
            at_once -= 1
        return b"text"

    monkeypatch.setattr(exposition, "_TEXT", (encode, "text/plain"))
    shown = Exposition(sealed(), {})
    answers = await asyncio.gather(*(shown.answer("") for _ in range(10)))
    assert answers == [(b"text", "text/plain")] * 10
    assert most == 1
