"""A month of made-up traffic with planted incidents: what the rules find, and how often they cry wolf."""

import re
from pathlib import Path

import pytest

from relay.core.clock import HOUR
from tests.unusual_kit import USUAL
from tests.unusual_traffic import Measured, measure

SEEDS = (1, 2, 3)
PAGE = Path(__file__).parents[2] / "docs" / "unusual-use.md"
MUST = {
    "stolen key, new network, at night": 1.0,
    "stolen key, same provider": 1.0,
    "slow exfiltration": 1.0,
    "burst": 1.0,
    "probing": 0.9,
    "first destructive action": 0.9,
}
"""What must be found, as a part of what is planted. Missing are keys that were not known for long enough yet."""
AT_MOST = {"first_use": 8, "new_network": 10, "volume": 10, "denials_then_success": 2}
"""False alarms in a month of sixty keys."""


@pytest.fixture(scope="module")
def months() -> list[Measured]:
    """One month for each seed."""
    return [measure(seed, USUAL) for seed in SEEDS]


def test_the_traffic_is_large_and_every_kind_of_incident_is_in_it(months: list[Measured]) -> None:
    for month in months:
        assert month.events > 400_000
        assert month.planted.keys() == {*MUST, "skimming"} and min(month.planted.values()) == 4


@pytest.mark.parametrize("kind", MUST)
def test_what_is_planted_is_found(months: list[Measured], kind: str) -> None:
    planted, found = (
        sum(counts[kind] for counts in each) for each in zip(*[(m.planted, m.found) for m in months], strict=True)
    )
    assert found >= MUST[kind] * planted, f"{found} of {planted}"


def test_it_is_found_while_it_happens(months: list[Measured]) -> None:
    delays = sorted(delay for month in months for delay in month.delays)
    assert delays[len(delays) // 2] < HOUR and delays[-1] < 24 * HOUR


@pytest.mark.parametrize("rule", AT_MOST)
def test_false_alarms_are_few(months: list[Measured], rule: str) -> None:
    for month in months:
        assert month.false[rule] <= AT_MOST[rule]


def test_the_page_says_what_was_measured(months: list[Measured]) -> None:
    text = PAGE.read_text()
    total = Measured()
    for month in months:
        total.add(month)
    kinds = dict(re.findall(r"^\| ([a-z, ]+) \| `[a-z_]+` \| (\d+ of \d+) \|$", text, re.MULTILINE))
    assert kinds == {kind: f"{total.found[kind]} of {count}" for kind, count in total.planted.items()}
    rules = {rule: int(n) for rule, n in re.findall(r"^\| `([a-z_]+)` \| (\d+) \|", text, re.MULTILINE)}
    assert rules == {rule: total.false[rule] for rule in AT_MOST}
