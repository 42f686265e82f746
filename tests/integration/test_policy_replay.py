"""Recorded decisions over both databases, and what a draft would make of them."""

import asyncio
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.action import Decision
from relay.core.circumstances import Circumstances
from relay.core.clock import DAY, HOUR, now
from relay.core.origins import Origins
from relay.core.problem import Invalid, NotFound, TooManyRunning
from relay.identity.operator import operator
from relay.policy import replay as replay_module
from relay.policy.engine import evaluate
from relay.policy.inputs import decode_inputs
from relay.policy.recorded import Recorded
from relay.store.retention import Purge
from relay.store.tables import envelopes
from relay.store.tables.policy import decisions, policy_replays
from relay.store.target import Target, parse_target
from relay.store.vault import Vault
from tests.audit_kit import own
from tests.policy_kit import INSIDE, OUTSIDE, active, probed, who
from tests.policy_world import ALL, NONE, READS, PolicyWorld, policy_world
from tests.postgres import NewDatabase


@pytest.fixture
async def world(target):
    async with policy_world(target) as world:
        yield world


async def test_a_decision_is_kept_with_what_it_was_made_upon(world: PolicyWorld) -> None:
    ada, at = await world.person(), now()
    decision = await world.decide(ada, probed("probe.write", recipients=[OUTSIDE], amount=7), at=at)
    [row] = await world.rows(decisions)
    assert row["id"].startswith("dec_")
    assert (row["workspace_id"], row["principal_id"], row["action"]) == ("default", ada.id, "probe.write")
    assert (row["effect"], row["policy_id"], row["policy_version"]) == ("allow", "builtin:default", 0)
    assert (row["kind"], row["attempt_id"], row["occurred_at"]) == ("execute", "att_test", at)
    assert row["expires_at"] == at + 30 * DAY
    [envelope] = [found for found in await world.rows(envelopes) if found["purpose"] == "decision"]
    assert (envelope["record_id"], envelope["expires_at"]) == (row["id"], row["expires_at"])
    assert OUTSIDE.encode() not in envelope["body"] and OUTSIDE not in repr(row)
    assert b"zoe@elsewhere.example" in decision.inputs


@pytest.mark.parametrize(("retention", "inputs"), [(0, b"{}"), (DAY, b"")])
async def test_nothing_is_kept_without_retention_or_inputs(world: PolicyWorld, retention: int, inputs: bytes) -> None:
    vault = Vault(world.ring.envelopes, world.database.reader)
    decision = Decision("allow", "workspace", 1, "because", inputs=inputs)
    spec = probed("probe.read")[0]
    assert Recorded(vault, retention).prepare(who(), spec, decision, "preview", now()) is None
    both = Recorded(vault, DAY).prepare(who(), spec, replace(decision, inputs=b"{}"), "preview", now())
    assert both is not None


async def test_a_draft_lists_what_would_flip_and_why(world: PolicyWorld) -> None:
    agent, ada = await world.ring.principal("actions:execute"), await world.person()
    me = await world.ring.principal("actions:execute", kind="person")
    await world.decide(agent, probed("probe.read"))
    await world.decide(me, probed("probe.write", recipients=[OUTSIDE]))
    await world.decide(agent, probed("probe.write", recipients=[OUTSIDE]))
    await world.decide(agent, probed("probe.write", recipients=[INSIDE]))
    found, flips = await world.replay(ada, READS)
    assert (found.replayed, found.unreadable, found.flips, found.truncated) == (4, 0, 3, False)
    told = [(flip.before.effect, flip.after.effect, flip.before.policies, flip.after.policies) for flip in flips]
    assert told == [
        ("allow", "deny", ("internal-writes",), ()),
        ("require_approval", "deny", ("approved-changes",), ()),
        ("allow", "deny", ("person-writes",), ()),
    ]
    assert found.transitions == {("allow", "deny"): 2, ("require_approval", "deny"): 1}
    assert (
        flips[0].before.reason == 'Allowed by "internal-writes".' and flips[0].after.reason == "No policy allows this."
    )
    assert (flips[0].row.action, flips[0].row.principal_id) == ("probe.write", agent.id)
    assert (await world.replay(ada, (await world.versions.get("default", 0)).text))[0].flips == 0


async def test_other_approvers_are_a_flip(world: PolicyWorld) -> None:
    ada, agent = await world.person(), await world.ring.principal("actions:execute")
    one = '@id("x") permit (principal, action, resource) when { context.approved };'
    two = '@id("x") permit (principal, action, resource) when { context.approvals >= 2 };'
    other = '@id("x") permit (principal, action, resource) when { context.other_person };'
    await world.put(ada, one)
    await world.decide(agent, probed("probe.write"))
    _, [flip] = await world.replay(ada, two)
    assert (flip.before.approvers, flip.after.approvers) == (1, 2)
    _, [flip] = await world.replay(ada, other)
    assert (flip.before.other_person, flip.after.other_person) == (False, True)
    assert (await world.replay(ada, one.replace('"x"', '"renamed"')))[1] == []


async def test_only_the_workspace_s_own_of_the_days_asked_for(world: PolicyWorld) -> None:
    ada, bob = await world.person(), await world.person("other")
    for author in (ada, bob):
        await world.decide(author, probed("probe.read"))
    await world.decide(ada, probed("probe.read"), at=now() - 3 * DAY - HOUR)
    found, _ = await world.replay(ada, NONE, days=3)
    assert (found.replayed, found.unreadable) == (1, 0)
    found, flips = await world.replay(ada, NONE, days=4)
    assert (found.replayed, found.unreadable) == (2, 0) and {flip.row.principal_id for flip in flips} == {ada.id}
    with pytest.raises(NotFound):
        await world.replays.run(operator(), "no-such", NONE, days=1, seconds=None, on_flip=lambda _: None)


async def test_more_than_one_batch_none_twice_and_none_left_out(
    world: PolicyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "_BATCH", 4)
    ada, at = await world.person(), now() - HOUR
    for number in range(15):  # several of one moment, across the ends of batches
        await world.decide(ada, probed("probe.read"), at=at + number // 6)
    found, flips = await world.replay(ada, NONE)
    assert found.replayed == 15 and len({flip.row.id for flip in flips}) == 15
    assert [flip.row.occurred_at for flip in flips] == sorted((flip.row.occurred_at for flip in flips), reverse=True)
    assert found.reached == at


async def test_when_time_is_up_it_says_so(world: PolicyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "_BATCH", 4)
    ada, at = await world.person(), now() - HOUR
    for number in range(10):
        await world.decide(ada, probed("probe.read"), at=at + number)
    found, flips = await world.replay(ada, NONE, seconds=0.0)
    assert found.truncated and found.replayed == len(flips) == 4 and found.reached == at + 6
    assert await world.rows(policy_replays) == []
    found, _ = await world.replay(ada, NONE, seconds=3600.0)
    assert not found.truncated and found.replayed == 10
    [row] = await world.rows(policy_replays)
    assert (row["digest"], row["replayed"], row["flips"]) == (found.digest, 10, 10)


async def test_one_replay_at_a_time(world: PolicyWorld) -> None:
    ada = await world.person()
    done = await asyncio.gather(world.replay(ada, NONE), world.replay(ada, NONE), return_exceptions=True)
    assert sorted(type(found).__name__ for found in done) == ["TooManyRunning", "tuple"]
    with pytest.raises(Invalid):
        await world.replay(ada, "permit (")
    found, _ = await world.replay(ada, NONE)
    assert found.replayed == 0 and isinstance(done[1], TooManyRunning)


async def test_what_cannot_be_read_is_counted_and_not_guessed(world: PolicyWorld, target: Target) -> None:
    ada = await world.person()
    for _ in range(4):
        await world.decide(ada, probed("probe.read"))
    rows = await world.rows(decisions)
    own(target, ("DELETE FROM envelopes WHERE record_id = ?", (rows[0]["id"],)))
    own(target, ("UPDATE envelopes SET body = ? WHERE record_id = ?", (b"nothing", rows[1]["id"])))
    moved = (rows[2]["id"], rows[3]["id"])
    own(target, "UPDATE envelopes SET record_id = 'x' WHERE record_id = '" + moved[0] + "'")
    own(target, ("UPDATE envelopes SET record_id = ? WHERE record_id = ?", moved))
    found, flips = await world.replay(ada, NONE)
    assert (found.replayed, found.unreadable, flips) == (0, 4, [])


async def test_rows_go_with_their_envelopes(world: PolicyWorld) -> None:
    ada, at = await world.person(), now()
    await world.decide(ada, probed("probe.read"), at=at - 31 * DAY)
    await world.decide(ada, probed("probe.read"), at=at)
    await world.replay(ada, NONE)
    await Purge(world.database.writer).once(at + 2 * HOUR)
    [row] = await world.rows(decisions)
    assert row["occurred_at"] == at and await world.rows(policy_replays) == []
    assert [found["record_id"] for found in await world.rows(envelopes) if found["purpose"] == "decision"] == [
        row["id"]
    ]
    await Purge(world.database.writer).once(at + 31 * DAY)
    assert await world.rows(decisions) == []
    assert [found for found in await world.rows(envelopes) if found["purpose"] == "decision"] == []


CLAUSES = [
    'permit (principal, action in Relay::Action::"effect:read", resource);',
    "permit (principal is Relay::Person, action, resource);",
    'permit (principal, action in Relay::Action::"effect:write", resource) when { context.internal };',
    "permit (principal, action, resource) when { context.approved };",
    "permit (principal, action, resource) when { context.approvals >= 2 };",
    "permit (principal, action, resource) when { context.other_person };",
    'forbid (principal, action == Relay::Action::"probe.write", resource) when { context.params.amount > 10 };',
    "forbid (principal is Relay::Agent, action, resource) when { context.untrusted_content };",
    'forbid (principal, action, resource) when { context has origins && context.origins.untrusted.contains("to") };',
    "forbid (principal, action, resource) when { context.recipient_count > 1 };",
    # Overflows for large amounts: an error while deciding.
    'forbid (principal, action == Relay::Action::"probe.read", resource) when '
    "{ context.params.amount * 9007199254740991 > 1 };",
]
POLICIES = st.lists(st.sampled_from(CLAUSES), unique=True).map("\n".join)
ASKED = st.lists(
    st.tuples(
        st.sampled_from(["agent", "person"]),
        st.sampled_from(["probe.read", "probe.write", "probe.destroy"]),
        st.sampled_from([0, 5, 50, 10**6]),
        st.lists(st.sampled_from([INSIDE, OUTSIDE]), unique=True),
        st.integers(0, 2),
        st.booleans(),
        st.sampled_from([None, Origins(), Origins(untrusted=frozenset({"to"}))]),
    ),
    min_size=1,
    max_size=12,
)


async def _like_by_hand(target: Target, before: str, draft: str, asked: list[Any]) -> None:
    async with policy_world(target) as world:
        ada = await world.person()
        await world.put(ada, before)
        expected: Counter[tuple[Any, ...]] = Counter()
        for kind, name, amount, recipients, approvals, untrusted, origins in asked:
            what = probed(name, amount=amount, recipients=recipients)
            principal = who(kind, workspace_id="default")
            about = {"approvals": approvals, "untrusted_content": untrusted, "origins": origins}
            decision = await world.decide(principal, what, **about)
            assert decision == await world.policy.decide(principal, *what, Circumstances(now(), **about))
            by_hand = evaluate(decode_inputs(decision.inputs), active(draft))
            if _demand(decision) != _demand(by_hand):
                expected[(name, kind, *_demand(decision), *_demand(by_hand), by_hand.reason)] += 1
        found, flips = await world.replay(ada, draft)
        assert (found.replayed, found.unreadable, found.flips) == (len(asked), 0, expected.total())
        told = Counter((flip.row.action, *_side(flip.before), *_side(flip.after), flip.after.reason) for flip in flips)
        assert told == Counter((name, *rest) for name, _, *rest in expected.elements())
        assert sum(found.transitions.values()) == found.flips


def _demand(decision: Decision) -> tuple[Any, ...]:
    approval = decision.effect == "require_approval"
    return (decision.effect, *((decision.approvers, decision.other_person) if approval else (0, False)))


def _side(ruling: Any) -> tuple[Any, ...]:
    approval = ruling.effect == "require_approval"
    return (ruling.effect, *((ruling.approvers, ruling.other_person) if approval else (0, False)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=POLICIES, draft=POLICIES, asked=ASKED)
def test_it_finds_what_deciding_by_hand_finds_on_sqlite(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, before: str, draft: str, asked: list[Any]
) -> None:
    target = parse_target(None, tmp_path_factory.mktemp("replay"))
    assert target.path is not None
    shutil.copyfile(sqlite_template, target.path)
    asyncio.run(_like_by_hand(target, before, draft, asked))


async def test_it_finds_what_deciding_by_hand_finds_on_postgresql(new_postgres: NewDatabase) -> None:
    chance = random.Random(20300102)
    for _ in range(5):
        before, draft = ("\n".join(chance.sample(CLAUSES, chance.randint(0, 5))) for _ in range(2))
        asked = [
            (
                chance.choice(["agent", "person"]),
                chance.choice(["probe.read", "probe.write", "probe.destroy"]),
                chance.choice([0, 5, 50, 10**6]),
                chance.sample([INSIDE, OUTSIDE], chance.randint(0, 2)),
                chance.randint(0, 2),
                chance.random() < 0.5,
                chance.choice([None, Origins(untrusted=frozenset({"to"}))]),
            )
            for _ in range(12)
        ]
        with new_postgres() as target:
            await _like_by_hand(target, before, draft, asked)


async def test_everything_allowed_and_nothing(world: PolicyWorld) -> None:
    ada = await world.person()
    await world.put(ada, NONE)
    await world.decide(ada, probed("probe.read"))
    _, [flip] = await world.replay(ada, ALL)
    assert (flip.before.effect, flip.before.policies) == ("deny", ("none",))
    assert (flip.after.effect, flip.after.policies) == ("allow", ("all",))
