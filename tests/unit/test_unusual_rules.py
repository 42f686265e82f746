"""The rules on unusual use by themselves: bounded whatever happens, silent on look-alikes, explained by numbers."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.clock import DAY, HOUR, MICROSECONDS, MINUTE
from relay.core.principal import Principal
from relay.settings.model_telemetry import UnusualRule
from relay.telemetry.catalogue import UNUSUAL
from relay.unusual import sightings as noting
from relay.unusual.habits import (
    MAX_ACTIONS,
    MAX_DENIALS,
    MAX_NETWORKS,
    MAX_TOLD,
    VOLUME_DAYS,
    Habits,
    highest,
)
from relay.unusual.rules import Finding, Rule, Rules, Sensitivity, Watched
from relay.unusual.sightings import Sightings
from relay.unusual.volume import limits_at
from tests.unusual_kit import EFFECTS, USUAL

START = 20_000 * DAY


class World:
    """One key of one workspace, with the rules."""

    def __init__(self, sensitivity: Sensitivity = USUAL) -> None:
        self.rules = Rules(sensitivity, EFFECTS)
        self.key, self.workspace = Watched(Habits(), "key"), Watched(Habits(), "workspace")
        self.found: list[Finding] = []

    def do(self, what: str, action: str, at: int, times: int = 1) -> None:
        for number in range(times):
            self.found += self.rules.action(self.key, self.workspace, what, action, at + number * MICROSECONDS)

    def come(self, network: str, at: int) -> None:
        self.found += self.rules.network(self.key, self.workspace, network, at)

    @property
    def said(self) -> list[str]:
        return [one.rule for one in self.found]


def office(days: int, actions: int = 20) -> World:
    """Return a key that has done the same on each day."""
    world = World()
    for day in range(days):
        world.do("began", "email.send", START + day * DAY + 9 * HOUR, actions)
    assert world.said == []
    return world


def test_the_names_of_the_rules_are_those_of_the_metric_and_of_the_setting() -> None:
    assert get_args(Rule) == get_args(UnusualRule) == UNUSUAL


@pytest.mark.parametrize("rule", UNUSUAL)
def test_a_rule_that_is_off_says_nothing_and_the_others_go_on(rule: str) -> None:
    def provoke(rules: frozenset[str]) -> set[str]:
        world = World(Sensitivity(rules, 14 * DAY, 30, 200, 10))
        world.come("192.0.2.0/24", START)
        for day in range(20):
            world.do("began", "email.send", START + day * DAY)
        late = START + 20 * DAY
        world.do("began", "files.delete", late)
        world.do("began", "email.send", late, 200)
        world.do("denied", "email.send", late, 15)
        world.do("succeeded", "email.send", late + MINUTE)
        world.come("203.0.113.0/24", late)
        return set(world.said)

    assert provoke(frozenset(UNUSUAL)) == set(UNUSUAL)
    assert provoke(frozenset(UNUSUAL) - {rule}) == set(UNUSUAL) - {rule}


def test_a_first_use_names_what_is_usual_and_is_forgotten_after_sixty_days() -> None:
    world = office(20)
    world.do("began", "files.delete", START + 20 * DAY)
    assert world.said == ["first_use"]
    assert world.found[0].numbers == {
        "seen": "files.delete",
        "effect": "destructive",
        "usual": ["email.send"],
        "new_to_workspace": True,
    }
    world.do("began", "files.delete", START + 50 * DAY)
    assert world.said == ["first_use"]
    for day in range(51, 125):
        world.do("began", "email.send", START + day * DAY)
    world.do("began", "files.delete", START + 125 * DAY)
    assert world.said == ["first_use", "first_use"]


def test_a_network_beside_two_known_ones_is_the_same_provider() -> None:
    world = World()
    world.come("82.10.1.0/24", START)
    world.come("82.10.200.0/24", START + 20 * DAY)
    assert world.said == ["new_network"]  # one known network says nothing of the rest
    world.come("82.10.77.0/24", START + 22 * DAY)
    assert world.said == ["new_network"]
    world.come("82.11.77.0/24", START + 23 * DAY)
    assert world.said == ["new_network", "new_network"]


def test_ipv6_goes_by_forty_eight_and_thirty_two_bits() -> None:
    world = World()
    for number, network in enumerate(("2001:db8:1::/48", "2001:db8:2::/48", "2001:db8:3::/48", "2001:dba:1::/48")):
        world.come(network, START + (0 if number < 2 else 20) * DAY)
    assert [one.numbers["seen"] for one in world.found] == ["2001:dba:1::/48"]


def test_whoever_travels_is_reported_three_times_a_day() -> None:
    world = World()
    world.come("192.0.2.0/24", START)
    for number in range(20):
        world.come(f"{100 + number}.0.0.0/24", START + 20 * DAY + number * HOUR)
    assert world.said == ["new_network"] * 3


def test_the_limit_of_an_hour_is_what_the_documentation_says() -> None:
    world = office(29, actions=20)
    hour, day = limits_at(world.key.habits, START + 29 * DAY + 9 * HOUR, floor=30, percent=200)
    # Median 0, since of three hours that count two are idle; 200 % of 20 is above 30.
    assert (hour.typical, hour.busiest, hour.limit) == (0.0, 20, 40)
    assert (day.typical, day.busiest, day.limit) == (20.0, 20, 120)


def test_a_constant_stream_has_the_noise_of_counting() -> None:
    habits = Habits(since=START)
    habits.days = {START // DAY + day: [100] * 24 for day in range(28)}
    hour, day = limits_at(habits, START + 28 * DAY, floor=30, percent=100)
    assert (hour.typical, hour.limit) == (100.0, 160)
    assert (day.typical, day.limit) == (2400.0, 2400 + 294)


@given(st.lists(st.integers(0, 500), min_size=28, max_size=28), st.integers(1, 100), st.integers(100, 500))
def test_a_limit_is_never_below_the_floor_nor_below_what_three_days_reached(
    peaks: list[int], floor: int, percent: int
) -> None:
    habits = Habits(since=START)
    habits.days = {START // DAY + day: [0] * 9 + [peak] + [0] * 14 for day, peak in enumerate(peaks)}
    hour, day = limits_at(habits, START + 28 * DAY + 9 * HOUR, floor=floor, percent=percent)
    assert hour.limit >= max(floor, highest(peaks, 3)) and day.limit >= max(4 * floor, highest(peaks, 3))
    assert hour.limit >= hour.typical


def test_one_burst_of_the_past_makes_no_second_one_usual() -> None:
    world = office(20)
    world.do("began", "email.send", START + 20 * DAY + 9 * HOUR, 400)
    world.do("began", "email.send", START + 23 * DAY + 9 * HOUR, 400)
    assert world.said == ["volume", "volume"]


def test_what_a_key_does_once_a_week_is_usual_after_the_learning() -> None:
    world = World()
    for week in range(6):
        world.do("began", "email.send", START + week * 7 * DAY + (2 + week % 3 * 2) * HOUR, 300)
    assert world.said == []


def test_slowly_and_all_day_is_too_much_in_a_day() -> None:
    world = office(20, actions=60)
    for hour in range(24):
        world.do("began", "email.send", START + 20 * DAY + hour * HOUR, 40)
    assert world.said == ["volume"]
    assert world.found[0].numbers["window"] == "day"


def test_denials_without_a_success_and_those_of_every_day_say_nothing() -> None:
    world = office(20)
    world.do("denied", "email.send", START + 20 * DAY, 30)
    assert world.said == []
    world.do("succeeded", "email.send", START + 20 * DAY + 2 * HOUR)  # the denials were too long ago
    assert world.said == []
    often = office(20)
    for day in range(20, 30):
        often.do("denied", "email.send", START + day * DAY, 12)
    often.do("denied", "email.send", START + 30 * DAY, 24)
    often.do("succeeded", "email.send", START + 30 * DAY + MINUTE)
    assert often.said == []
    often.do("denied", "email.send", START + 30 * DAY + 2 * MINUTE)
    often.do("succeeded", "email.send", START + 30 * DAY + 3 * MINUTE)
    assert often.said == ["denials_then_success"]


def test_no_more_denials_of_an_hour_are_remembered_than_matter() -> None:
    world = office(20)
    world.do("denied", "email.send", START + 20 * DAY, 2 * MAX_DENIALS)
    assert len(world.key.habits.recent) == MAX_DENIALS == world.key.habits.denied[START // DAY + 20]


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["began", "denied", "succeeded", "network"]),
        st.integers(0, 400),
        st.integers(0, 40 * 24 * 60),
    ),
    max_size=300,
)


@given(_STEPS)
def test_habits_are_bounded_and_survive_being_stored(steps: list[tuple[str, int, int]]) -> None:
    world, at = World(), START
    for what, which, minutes in steps:
        at += minutes * MINUTE
        if what == "network":
            world.come(f"10.{which % 256}.{which // 256}.0/24", at)
        else:
            world.do(what, f"a.{which}", at)
    for habits in (world.key.habits, world.workspace.habits):
        assert len(habits.actions) <= MAX_ACTIONS and len(habits.networks) <= MAX_NETWORKS
        assert len(habits.recent) <= MAX_DENIALS and len(habits.told) <= MAX_TOLD
        assert len(habits.days) <= VOLUME_DAYS + 1 and len(habits.denied) <= VOLUME_DAYS + 1
        assert Habits.from_json(habits.to_json()) == habits


def test_the_most_that_can_be_kept_of_a_key_is_small() -> None:
    world = World()
    for number in range(3 * MAX_ACTIONS):
        world.do("began", f"connector.{'x' * 60}{number}", START + number * HOUR * 2, 30)
        world.come(f"{number % 200}.{number // 200}.1.0/24", START + number * HOUR)
        world.do("denied", "email.send", START + number * MINUTE)
    assert len(world.key.habits.to_json()) < 40_000


def _principal(number: int, method: str = "api_key") -> Principal:
    name = f"key_{number}"
    return Principal(name, "agent", "default", frozenset(), name, (), method)


def test_sightings_are_noted_once_an_hour_and_never_beyond_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [START]
    monkeypatch.setattr(noting, "now", lambda: moment[0])
    monkeypatch.setattr(noting, "MAX_KNOWN", 50)
    monkeypatch.setattr(noting, "MAX_WAITING", 70)
    seen = Sightings()
    for _ in range(3):
        seen.note(_principal(1), "192.0.2.1")
        seen.note(_principal(1), "192.0.2.99")
    seen.note(_principal(2), "not an address")
    seen.note(_principal(3, "dev"), "192.0.2.1")
    taken = seen.take(10)
    assert [(one.key_id, one.block) for one in taken] == [("key_1", "192.0.2.0/24")]
    seen.note(_principal(1), "192.0.2.1")
    assert seen.take(10) == []
    moment[0] += HOUR
    seen.note(_principal(1), "192.0.2.1")
    assert len(seen.take(10)) == 1
    for number in range(500):
        seen.note(_principal(number), f"10.{number % 256}.{number // 256}.1")
    assert len(seen._known) <= 50 and len(seen._waiting) == 70
    seen.give_back(seen.take(30))
    assert len(seen.take(1000)) == 70
