"""Versions of policies over both databases: put, returned to, found by whoever decides, and never opened by mistake."""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.catalog import Catalog
from relay.connectors import echo
from relay.core.clock import HOUR, now
from relay.core.principal import Principal
from relay.core.problem import Conflict, Denied, Invalid, NotFound, Unauthenticated
from relay.identity.operator import operator
from relay.policy.check import policy_schema
from relay.policy.default import DEFAULT_TEXT
from relay.store.policies import PolicyRepository
from relay.store.tables import audit_events
from relay.store.tables.policy import policy_heads, policy_replays, policy_versions
from relay.store.target import Target, parse_target
from relay.store.writer import StoreUnavailable
from tests.audit_kit import own
from tests.keyring import REQUEST
from tests.policy_kit import probed
from tests.policy_world import ALL, NONE, READS, PolicyWorld, policy_world
from tests.postgres import NewDatabase

PATIENCE = 30.0
BROKEN = 'permit (principal, action == Relay::Action::"no.such", resource);'


@pytest.fixture
async def world(target):
    async with policy_world(target) as world:
        yield world


async def _soon(found: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await found():
            await asyncio.sleep(0.02)


async def test_a_workspace_without_policies_has_the_default(world: PolicyWorld) -> None:
    ada = await world.person()
    active = await world.versions.active("default")
    assert (active.policy_id, active.version, active.broken) == ("builtin:default", 0, "")
    state = await world.versions.state("default")
    assert (state.active.version, state.active.text, state.latest, state.problems) == (0, DEFAULT_TEXT, 0, ())
    assert (await world.decide(ada, probed("probe.write"))).effect == "allow"
    assert await world.rows(policy_heads) == []


async def test_what_is_put_decides_from_then_on(world: PolicyWorld) -> None:
    ada = await world.person()
    await world.versions.active("default")
    assert await world.put(ada, NONE, comment="closed") == 1
    decision = await world.decide(ada, probed("probe.read"))
    assert (decision.effect, decision.policy_id, decision.policy_version) == ("deny", "workspace", 1)
    assert decision.policies == ("none",)
    await world.activate(ada, 0)
    assert (await world.decide(ada, probed("probe.read"))).policy_version == 0
    await world.activate(ada, 1)
    assert (await world.decide(ada, probed("probe.read"))).effect == "deny"


async def test_versions_are_kept_as_they_were_put(world: PolicyWorld) -> None:
    ada = await world.person()
    texts = [ALL, READS, ALL, f"{NONE}\n// é\n"]
    for number, text in enumerate(texts, 1):
        assert await world.put(ada, text, comment=f"number {number}", activate=number % 2 == 0) == number
    for number, text in enumerate(texts, 1):
        row = await world.versions.get("default", number)
        assert (row.text, row.comment, row.author) == (text, f"number {number}", ada.id)
    page = await world.versions.page("default", before=None, limit=3)
    assert [row.version for row in page] == [4, 3, 2]
    assert [row.version for row in await world.versions.page("default", before=2, limit=3)] == [1]
    assert (await world.versions.active("default")).version == 4


async def test_another_workspace_sees_nothing_of_it(world: PolicyWorld) -> None:
    ada, bob = await world.person(), await world.person("other")
    await world.put(ada, NONE)
    assert (await world.decide(bob, probed("probe.read"))).effect == "allow"
    assert await world.versions.page("other", before=None, limit=10) == []
    with pytest.raises(NotFound):
        await world.versions.get("other", 1)
    with pytest.raises(NotFound):
        await world.activate(bob, 1)
    assert await world.put(bob, READS) == 1
    assert (await world.versions.get("default", 1)).text == NONE


@pytest.mark.parametrize("number", [-1, 3, 2**31, 2**63, 10**30])
async def test_a_version_that_is_not_there(world: PolicyWorld, number: int) -> None:
    ada = await world.person()
    await world.put(ada, ALL)
    with pytest.raises(NotFound):
        await world.versions.get("default", number)
    with pytest.raises(NotFound):
        await world.activate(ada, number)


async def test_a_text_that_does_not_check_is_refused_with_its_place(world: PolicyWorld) -> None:
    ada = await world.person()
    with pytest.raises(Invalid) as refused:
        await world.put(ada, f"{ALL}\n{BROKEN}")
    errors = refused.value.extensions["errors"]
    assert {error["pointer"] for error in errors} == {"/text"}
    assert {error["line"] for error in errors} == {2}
    assert any("no.such" in error["reason"] and error["column"] > 1 for error in errors)
    assert await world.rows(policy_versions) == [] and await world.rows(policy_heads) == []


@pytest.mark.parametrize("kind", ["agent", "service"])
async def test_only_a_person_changes_policies(world: PolicyWorld, kind: str) -> None:
    ada = await world.person()
    await world.put(ada, READS)
    fields = {name: getattr(ada, name) for name in Principal.__dataclass_fields__}
    other = Principal(**{**fields, "kind": kind})
    with pytest.raises(Denied):
        await world.put(other, ALL)
    with pytest.raises(Denied):
        await world.activate(other, 0)
    assert (await world.versions.active("default")).version == 1


async def test_a_key_that_ended_meanwhile_changes_nothing(world: PolicyWorld) -> None:
    ada = await world.person()
    await world.ring.api_keys.revoke(operator(), ada.id, request_id=REQUEST)
    with pytest.raises(Unauthenticated):
        await world.put(ada, ALL)
    with pytest.raises(Unauthenticated):
        await world.activate(ada, 0)
    assert await world.rows(policy_versions) == []


async def test_the_operator_needs_a_workspace_that_exists(world: PolicyWorld) -> None:
    await world.person()
    row, _ = await world.versions.put(operator(), "default", READS, request_id=REQUEST)
    assert (row.version, row.author) == (1, "operator")
    with pytest.raises(NotFound):
        await world.versions.put(operator(), "no-such", READS, request_id=REQUEST)


async def test_a_lost_update_is_refused(world: PolicyWorld) -> None:
    ada = await world.person()
    assert await world.put(ada, ALL, expected_version=0) == 1
    with pytest.raises(Conflict) as lost:
        await world.put(ada, NONE, expected_version=0)
    assert lost.value.extensions["version"] == 1
    with pytest.raises(Conflict):
        await world.put(ada, NONE, expected_version=2)
    assert await world.put(ada, READS, expected_version=1, activate=False) == 2
    with pytest.raises(Conflict):
        await world.activate(ada, 0, expected_version=2)
    await world.activate(ada, 2, expected_version=1)
    assert (await world.versions.active("default")).version == 2
    assert len(await world.rows(policy_versions)) == 2


async def test_every_change_is_in_the_audit_log(world: PolicyWorld) -> None:
    ada = await world.person()
    await world.put(ada, ALL, comment="first")
    await world.put(ada, NONE, activate=False)
    await world.activate(ada, 0, comment="back")
    rows = [row for row in await world.rows(audit_events) if row["tag"].startswith("policy:")]
    rows.sort(key=lambda row: row["seq"])
    told = [(row["tag"], row["target"], row["principal"], row["workspace_id"]) for row in rows]
    who = (ada.id, "default")
    assert told == [
        ("policy:version:created", "policies@1", *who),
        ("policy:version:activated", "policies@1", *who),
        ("policy:version:created", "policies@2", *who),
        ("policy:version:activated", "policies@0", *who),
    ]
    first, last = await world.versions.get("default", 1), rows[-1]
    assert rows[0]["digest"] == first.digest and last["digest"] != first.digest
    assert all(row["commitment"] for row in rows)


async def test_puts_at_once_make_consecutive_versions(target: Target) -> None:
    async with policy_world(target) as one, policy_world(target) as two:
        ada, bob = await one.person(), await two.person()
        made = await asyncio.gather(
            *(one.put(ada, ALL, comment=f"a{number}") for number in range(8)),
            *(two.put(bob, READS, comment=f"b{number}") for number in range(8)),
        )
        assert sorted(made) == list(range(1, 17))
        rows = await one.rows(policy_versions)
        assert sorted(row["version"] for row in rows) == list(range(1, 17))
        assert {row["comment"] for row in rows} == {f"{who}{number}" for who in "ab" for number in range(8)}
        [head] = await one.rows(policy_heads)
        assert (head["active"], head["latest"]) == (16, 16)


async def test_of_two_who_expect_the_same_version_one_wins(target: Target) -> None:
    async with policy_world(target) as one, policy_world(target) as two:
        ada, bob = await one.person(), await two.person()
        made = await asyncio.gather(
            one.put(ada, ALL, expected_version=0), two.put(bob, READS, expected_version=0), return_exceptions=True
        )
        assert sorted(type(found).__name__ for found in made) == ["Conflict", "int"]
        assert [row["version"] for row in await one.rows(policy_versions)] == [1]


async def test_a_head_that_was_read_is_held_until_it_is_moved(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PolicyRepository.move

    def slowly(*arguments: Any, **more: Any) -> None:
        time.sleep(0.5)  # in the transaction, so that another one falls into it
        real(*arguments, **more)

    async with policy_world(target) as one, policy_world(target) as two:
        ada, bob = await one.person(), await two.person()
        await one.put(ada, ALL)
        monkeypatch.setattr(PolicyRepository, "move", slowly)
        made = await asyncio.gather(
            one.activate(ada, 0, expected_version=1), two.activate(bob, 0, expected_version=1), return_exceptions=True
        )
        assert sorted(type(found).__name__ for found in made) == ["Conflict", "NoneType"]
        await asyncio.gather(one.put(ada, READS, activate=False), two.activate(bob, 1))
        assert (await one.versions.state("default")).active.version == 1


async def test_another_process_notices_within_a_second_or_so(target: Target) -> None:
    async with policy_world(target) as one, policy_world(target) as two:
        ada = await one.person()
        assert (await two.versions.active("default")).version == 0

        async def noticed(version: int) -> bool:
            return (await two.versions.active("default")).version == version

        await one.put(ada, NONE)
        await _soon(lambda: noticed(1))
        assert (await two.decide(ada, probed("probe.read"))).effect == "deny"
        await one.activate(ada, 0)
        await _soon(lambda: noticed(0))


async def test_what_holds_is_not_read_again_while_nothing_changes(world: PolicyWorld) -> None:
    ada = await world.person()
    await world.put(ada, READS)

    async def cached() -> bool:  # on PostgreSQL the generation must have been seen first
        await world.versions.active("default")
        world.ring.statements.clear()
        await world.versions.active("default")
        return not any("policy_heads" in statement for statement in world.ring.statements)

    await _soon(cached)
    found = await world.versions.active("default")
    world.database.generation.changed()
    world.ring.statements.clear()
    again = await world.versions.active("default")
    assert any("policy_heads" in statement for statement in world.ring.statements)
    assert again.policies is found.policies, "the same text was compiled twice"


async def test_a_database_that_is_away_opens_nothing(world: PolicyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await world.person()
    await world.put(ada, ALL)
    await world.versions.active("default")

    async def away(_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(world.database.reader, "all", away)
    monkeypatch.setattr(world.database.generation, "current", lambda: None)
    with pytest.raises(StoreUnavailable):
        await world.versions.active("default")
    with pytest.raises(StoreUnavailable):
        await world.decide(ada, probed("probe.read"))


def _small_schema():
    catalog = Catalog()
    catalog.register(echo.connector, None)
    return policy_schema(catalog)


async def test_a_text_that_no_longer_checks_allows_nothing(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    text = '@id("one") permit (principal, action == Relay::Action::"probe.read", resource);'
    async with policy_world(target) as before:
        ada = await before.person()
        await before.put(ada, text)
        await before.put(ada, ALL, activate=False)
        assert (await before.decide(ada, probed("probe.read"))).effect == "allow"
    async with policy_world(target, schema=_small_schema()) as after:
        with caplog.at_level(logging.ERROR, logger="relay.policy"):
            decision = await after.decide(ada, probed("probe.read"))
            after.database.generation.changed()
            await after.decide(ada, probed("probe.write"))
        assert (decision.effect, decision.policy_version) == ("deny", 1)
        assert "version 1" in decision.reason and "Nothing is allowed" in decision.reason
        assert not await after.policy.could_run(ada, probed("probe.read")[0])
        [logged] = [record.getMessage() for record in caplog.records]
        assert "default" in logged and "line 1" in logged and "probe.read" in logged
        state = await after.versions.state("default")
        assert state.problems and state.active.text == text
        with pytest.raises(Invalid) as refused:
            await after.activate(ada, 1)
        assert {error["pointer"] for error in refused.value.extensions["errors"]} == {"/version"}
        await after.activate(ada, 2)
        assert (await after.versions.active("default")).broken == ""


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE policy_versions SET text = '{ALL}' WHERE version = 1",
        "DELETE FROM policy_versions WHERE version = 1",
        "UPDATE policy_heads SET active = 7",
    ],
)
async def test_a_text_that_is_not_the_one_that_was_put_allows_nothing(target: Target, damage: str) -> None:
    async with policy_world(target) as world:
        ada = await world.person()
        await world.put(ada, NONE)
        own(target, damage)
        world.database.generation.changed()
        decision = await world.decide(ada, probed("probe.read"))
        assert decision.effect == "deny" and "Nothing is allowed" in decision.reason
        assert (await world.versions.state("default")).problems
        await world.put(ada, READS)
        assert (await world.decide(ada, probed("probe.read"))).effect == "allow"


async def test_an_activation_can_demand_a_replay(target: Target) -> None:
    async with policy_world(target, replay_required=True) as world:
        ada, bob = await world.person(), await world.person("other")
        with pytest.raises(Conflict) as refused:
            await world.put(ada, READS)
        assert "replayed" in refused.value.detail
        assert await world.put(ada, READS, activate=False) == 1
        with pytest.raises(Conflict):
            await world.activate(ada, 1)
        await world.replay(bob, READS)
        await world.replay(ada, READS + " ")
        with pytest.raises(Conflict):
            await world.activate(ada, 1)
        await world.replay(ada, READS)
        await world.activate(ada, 1)
        assert await world.put(ada, READS) == 2
        with pytest.raises(Conflict):
            await world.activate(ada, 0)
        await world.replay(ada, DEFAULT_TEXT)
        await world.activate(ada, 0)
        own(target, ("UPDATE policy_replays SET expires_at = ?", (now() - 1,)))
        with pytest.raises(Conflict):
            await world.activate(ada, 1)
        [row] = [row for row in await world.rows(policy_replays) if row["workspace_id"] == "other"]
        assert row["principal_id"] == bob.id
        await world.replay(ada, READS)
        [row] = [row for row in await world.rows(policy_replays) if row["digest"] == row["digest"]][:1]
        assert row["expires_at"] - row["finished_at"] <= HOUR


@dataclass
class Model:
    """What a workspace's policies should be."""

    texts: list[str]
    active: int = 0

    @property
    def text(self) -> str:
        return self.texts[self.active]


TEXTS = st.sampled_from([ALL, NONE, READS, f"{ALL}\n{NONE}", BROKEN, "permit (", ""])
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), TEXTS, st.booleans(), st.one_of(st.none(), st.integers(0, 4))),
        st.tuples(st.just("activate"), st.integers(0, 5), st.just(True), st.one_of(st.none(), st.integers(0, 4))),
    ),
    max_size=12,
)


async def _history(target: Target, moves: list) -> None:
    async with policy_world(target) as world, policy_world(target) as other:
        ada = await world.person()
        model = Model([DEFAULT_TEXT])
        for move in moves:
            await _step(world, ada, model, move)
            for view in (world, other):
                state = await view.versions.state("default")
                assert (state.active.version, state.active.text) == (model.active, model.text)
                assert state.latest == len(model.texts) - 1
            held = await world.versions.active("default")
            assert (held.version, held.broken) == (model.active, "")
        rows = await world.versions.page("default", before=None, limit=100)
        assert [row.text for row in reversed(rows)] == model.texts[1:]


async def _step(world: PolicyWorld, ada: Principal, model: Model, move: tuple) -> None:
    what, value, activate, expected = move
    if what == "put":
        checks = value not in (BROKEN, "permit (")
        if checks and expected in (None, len(model.texts) - 1):
            model.texts.append(value)
            model.active = len(model.texts) - 1 if activate else model.active
            assert await world.put(ada, value, activate=activate, expected_version=expected) == len(model.texts) - 1
        else:
            with pytest.raises(Conflict if checks else Invalid):
                await world.put(ada, value, activate=activate, expected_version=expected)
    elif value >= len(model.texts):
        with pytest.raises(NotFound):
            await world.activate(ada, value, expected_version=expected)
    elif expected not in (None, model.active):
        with pytest.raises(Conflict):
            await world.activate(ada, value, expected_version=expected)
    else:
        model.active = value
        await world.activate(ada, value, expected_version=expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_any_history_on_sqlite_is_what_the_model_says(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, moves: list
) -> None:
    target = parse_target(None, tmp_path_factory.mktemp("history"))
    assert target.path is not None
    shutil.copyfile(sqlite_template, target.path)
    asyncio.run(_history(target, moves))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_any_history_on_postgresql_is_what_the_model_says(new_postgres: NewDatabase, moves: list) -> None:
    with new_postgres() as target:
        asyncio.run(_history(target, moves))
