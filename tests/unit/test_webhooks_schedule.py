"""When a delivery is tried again."""

from dataclasses import replace
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.clock import HOUR, MICROSECONDS, MINUTE
from relay.webhooks.schedule import Schedule, asked_pause

SECOND = MICROSECONDS
DOCUMENTED = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR]
NOW = 1_800_000_000 * SECOND
TIMES = st.integers(0, 10**12)


def test_the_retries_are_the_documented_ones() -> None:
    steady = replace(Schedule(), jitter=0.0)
    assert [steady.retry_after(failed, None) for failed in range(1, 8)] == DOCUMENTED
    assert steady.retry_after(8, None) is None and steady.retry_after(8, 10) is None


@given(st.integers(1, 7), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_a_fifth(failed: int, chance: float) -> None:
    schedule = Schedule(chance=lambda: chance)
    pause, base = schedule.retry_after(failed, None), DOCUMENTED[failed - 1]
    assert pause is not None and base * 0.8 <= pause <= base * 1.2


def test_jitter_reaches_both_ends() -> None:
    assert Schedule(chance=lambda: 0.0).retry_after(1, None) == 4 * SECOND
    assert Schedule(chance=lambda: 0.999999999).retry_after(1, None) == 6 * SECOND


@given(st.integers(1, 7), TIMES)
def test_what_a_receiver_asks_for_counts_between_the_pause_and_twice_the_pause(failed: int, asked: int) -> None:
    pause, base = Schedule().retry_after(failed, asked), DOCUMENTED[failed - 1]
    assert pause == (base if asked < base else 2 * base if asked > 2 * base else asked)


def test_the_breaker_opens_after_five_failures_and_its_pauses_double_up_to_a_bound() -> None:
    steady = replace(Schedule(), jitter=0.0)
    assert [steady.pause_after(failures) for failures in range(5)] == [None] * 5
    assert [steady.pause_after(failures) for failures in range(5, 9)] == [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND]
    assert steady.pause_after(14) == 5 * MINUTE == steady.pause_after(10**9)


def test_a_lease_outlasts_an_attempt() -> None:
    with pytest.raises(ValueError):
        replace(Schedule(), lease=Schedule().timeout)


@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [
        (429, "7", 7 * SECOND),
        (503, " 7 ", 7 * SECOND),
        (503, "0", 0),
        (500, "7", None),
        (200, "7", None),
        (429, None, None),
        (429, "", None),
        (429, "-7", None),
        (429, "7.5", None),
        (429, "٧", None),
        (429, "soon", None),
        (503, formatdate(NOW / SECOND + 90, usegmt=True), 90 * SECOND),
        (503, formatdate(NOW / SECOND - 90, usegmt=True), 0),
        (503, "Sun, 99 Nov 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after(status: int, header: str | None, expected: int | None) -> None:
    assert asked_pause(status, header, NOW) == expected


@given(st.sampled_from([429, 503]), st.text(max_size=60), TIMES)
def test_no_header_raises(status: int, header: str, at: int) -> None:
    asked = asked_pause(status, header, at)
    assert asked is None or asked >= 0


@given(st.integers(0, 10**40))
def test_no_number_is_too_large(seconds: int) -> None:
    asked = asked_pause(503, str(seconds), NOW)
    assert asked is not None and 0 <= asked < 10**15
