"""Counters are read where a policy that has a say looks at them, and nowhere else."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.circumstances import Circumstances
from relay.core.clock import DAY, HOUR
from relay.core.ids import first_id, id_milliseconds, new_id
from relay.gate.decide import decide
from relay.policy.engine import CedarPolicy, evaluate, lacks_counters
from relay.policy.inputs import action_facts, decode_inputs, principal_facts
from relay.policy.source import Active
from relay.policy.visible import could_match
from relay.store.attempt_counts import Counts
from relay.store.writer import StoreUnavailable
from tests.policy_kit import MONDAY_NOON, REACH, Uncounted, active, inputs, probed, who

WRITE, READ = probed("probe.write"), probed("probe.read")
FEW = '@id("few") permit (principal, action, resource) when { context.counters.actions_today < 10 };'
LOOKS = [
    "context.counters.actions_today < 10",
    "context.counters.actions_last_hour < 10",
    "context.counters.same_action_today < 10",
    "context has counters && context.counters.actions_today < 10",
    "context has counters.actions_today",
    "context.counters == {actions_today: 3, actions_last_hour: 2, same_action_today: 1}",
    "(if context.internal then context else context).counters.actions_today < 10",
    "context.internal || context.counters.actions_today < 10",
]


class Counting:
    """Counters that say what a test wants, and how they were asked."""

    def __init__(self, counts: Counts | Exception) -> None:
        self.counts = counts
        self.asked: list[Any] = []

    async def counted(self, *about: Any, **when: Any) -> Counts:
        self.asked.append((*about, when))
        if isinstance(self.counts, Exception):
            raise self.counts
        return self.counts


class Fixed:
    def __init__(self, found: Active) -> None:
        self.found = found

    async def active(self, workspace_id: str) -> Active:
        return self.found


def engine(text: str, counters: Any) -> CedarPolicy:
    return CedarPolicy(Fixed(active(text)), REACH, counters)


@pytest.mark.parametrize("condition", LOOKS)
async def test_whatever_looks_at_them_is_given_them_and_they_are_recorded(condition: str) -> None:
    counters = Counting(Counts(3, 2, 1))
    text = f"permit (principal, action, resource) when {{ {condition} }};"
    found = await engine(text, counters).decide(who(), *WRITE, Circumstances(MONDAY_NOON, asked_at=5))
    assert found.effect == "allow"
    assert counters.asked == [("default", who().id, "probe.write", {"at": MONDAY_NOON, "asked_at": 5})]
    recorded = decode_inputs(found.inputs)
    assert recorded.context["counters"] == {"actions_today": 3, "actions_last_hour": 2, "same_action_today": 1}
    assert evaluate(recorded, active(FEW.replace("10", "4"))).effect == "allow"
    assert evaluate(recorded, active(FEW.replace("10", "3"))).effect == "deny"


@pytest.mark.parametrize(
    ("text", "asker"),
    [
        ("permit (principal, action, resource);", who()),
        # Another action's, and another principal's, have no say.
        (FEW.replace("action,", 'action == Relay::Action::"probe.read",'), who()),
        (FEW.replace("principal,", "principal is Relay::Person,"), who()),
        # Refused before any policy.
        (FEW, who(scopes=frozenset({"docs"}))),
    ],
)
async def test_what_no_policy_with_a_say_looks_at_is_not_read(text: str, asker: Any) -> None:
    found = await engine(text, Uncounted()).decide(asker, *WRITE, Circumstances(MONDAY_NOON))
    assert "counters" not in decode_inputs(found.inputs).context


async def test_what_is_broken_denies_without_counting() -> None:
    broken = replace(active(FEW), broken="The policies do not check any more.")
    found = await CedarPolicy(Fixed(broken), REACH, Uncounted()).decide(who(), *WRITE, Circumstances(MONDAY_NOON))
    assert found.effect == "deny"


async def test_the_bound_is_exact_and_nothing_is_remembered_across_counts() -> None:
    counters = Counting(Counts())
    policy, effects = engine(FEW, counters), []
    for number in (9, 10, 9, 10_000, 0):
        counters.counts = Counts(actions_today=number)
        effects.append((await policy.decide(who(), *WRITE, Circumstances(MONDAY_NOON))).effect)
    assert effects == ["allow", "deny", "allow", "deny", "allow"]


async def test_what_cannot_be_counted_is_not_decided() -> None:
    policy = engine(FEW, Counting(StoreUnavailable("gone")))
    with pytest.raises(StoreUnavailable):
        await decide(policy, who(), *WRITE, Circumstances(MONDAY_NOON))
    # Whatever else breaks is a denial, as anywhere in a policy.
    broken = engine(FEW, Counting(LookupError("odd")))
    assert (await decide(broken, who(), *WRITE, Circumstances(MONDAY_NOON))).effect == "deny"


@pytest.mark.parametrize("condition", LOOKS)
def test_what_counters_might_allow_is_seen(condition: str) -> None:
    asked = principal_facts(who()), action_facts(WRITE[0])
    assert could_match(*asked, active(f"permit (principal, action, resource) when {{ {condition} }};").policies)
    forbids = f"permit (principal, action, resource); forbid (principal, action, resource) when {{ {condition} }};"
    assert could_match(*asked, active(forbids).policies)


def test_recorded_without_counters_it_cannot_be_judged_by_a_text_that_looks_at_them() -> None:
    bare = inputs(who(), WRITE, counters=None)
    assert lacks_counters(bare, active(FEW))
    assert not lacks_counters(bare.with_counters(Counts()), active(FEW))
    assert not lacks_counters(bare, active("permit (principal, action, resource);"))
    assert not lacks_counters(bare, active(FEW.replace("action,", 'action == Relay::Action::"probe.read",')))
    assert not lacks_counters(inputs(who(scopes=frozenset()), WRITE, counters=None), active(FEW))


def test_ids_made_since_a_moment_follow_its_first() -> None:
    made = new_id("att")
    at = id_milliseconds(made) * 1000
    assert first_id("att", at) < made and first_id("att", at + 999) < made
    assert made < first_id("att", at + 1000) < first_id("att", at + HOUR) < first_id("att", at + DAY)
    assert first_id("att", 0) == "att_" + "0" * 12
