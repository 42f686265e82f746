"""The kill switch on real databases: what it stops, who turns it, and that nothing slips past a turn."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update

from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict, Denied, Invalid, NotFound, Stopped
from relay.identity.operator import operator
from relay.policy import kill_switch as module
from relay.store.attempts import AttemptRepository
from relay.store.kill_switch import Stop
from relay.store.query import Query
from relay.store.runs import RunRepository, RunRow, StepRow
from relay.store.tables import attempts, audit_events, generations, run_events, run_steps, runs
from relay.store.target import Target
from relay.store.writer import StoreUnavailable, Tx
from tests.budgets_world import REQUEST, World, open_world, person, principal, row


@pytest.fixture
async def world(target: Target) -> AsyncIterator[World]:
    async with open_world(target) as opened:
        for workspace in ("default", "other"):  # a workspace is made with its first key
            await opened.ring.principal(workspace=workspace)
        yield opened


async def turn(
    world: World,
    kind: str,
    subject: str = "",
    *,
    on: bool = True,
    by: Principal | None = None,
    workspace: str | None = None,
    reason: str = "it went wrong",
) -> list[Stop]:
    actor = by or person()
    where = actor.workspace_id if workspace is None else workspace
    return await world.kill_switch.turn(
        actor, on=on, kind=kind, subject=subject, workspace=where, reason=reason, request_id=REQUEST
    )


async def may(world: World, who: Principal, action: str) -> bool:
    """Say whether an attempt begins; what is told beforehand must agree."""
    stop = await world.kill_switch.stopped(who, world.spec(action))
    try:
        await world.begin(who, action)
    except Stopped:
        assert stop is not None
        return False
    assert stop is None
    return True


async def events(world: World, tag: str = "policy:kill_switch:%") -> list[tuple[str, str, str]]:
    found = select(audit_events.c.tag, audit_events.c.workspace_id, audit_events.c.target)
    found = found.where(audit_events.c.tag.like(tag)).order_by(audit_events.c.seq)
    return [tuple(one) for one in await world.database.reader.all(found)]


CASES: list[tuple[str, str, set[str]]] = [
    ("workspace", "default", {"mine pay", "mine look", "mine send", "child pay"}),
    ("action", "bank.pay", {"mine pay", "child pay"}),
    ("connector", "bank", {"mine pay", "mine look", "child pay"}),
    ("key", "mine", {"mine pay", "mine look", "mine send", "child pay"}),
    ("key", "child", {"child pay"}),
]


@pytest.mark.parametrize(("kind", "subject", "stopped"), CASES)
async def test_what_a_stop_stops_and_what_not(world: World, kind: str, subject: str, stopped: set[str]) -> None:
    mine = await world.ring.principal()
    made, _ = await world.ring.make("actions:execute", maker=mine)
    child = await world.ring.api_keys.reload(made.id)
    beside, other = await world.ring.principal(), await world.ring.principal(workspace="other")
    asked = {
        "mine pay": (mine, "bank.pay"),
        "mine look": (mine, "bank.look"),
        "mine send": (mine, "post.send"),
        "child pay": (child, "bank.pay"),
        "beside send": (beside, "post.send"),
        "other pay": (other, "bank.pay"),
    }
    if kind == "workspace":
        stopped = stopped | {"beside send"}
    subject = {"mine": mine.id, "child": child.id}.get(subject, subject)
    (stop,) = await turn(world, kind, subject)
    assert (stop.kind, stop.subject, stop.reason, stop.switched_by) == (kind, subject, "it went wrong", "dev")
    assert {name for name, (who, action) in asked.items() if not await may(world, who, action)} == stopped
    assert await turn(world, kind, subject, on=False) == []
    assert [name for name, (who, action) in asked.items() if not await may(world, who, action)] == []
    target = f"{kind}:{subject}"
    assert await events(world) == [
        ("policy:kill_switch:on", "default", target),
        ("policy:kill_switch:off", "default", target),
    ]


async def test_a_service_is_stopped_where_it_acts_and_by_the_operator_wherever_that_is(world: World) -> None:
    chat, beside = principal(who="chat", kind="service"), await world.ring.principal()
    elsewhere = principal("other", "chat", kind="service")
    with pytest.raises(NotFound):  # it acts in "default"
        await turn(world, "key", "chat", by=person("other"))
    await turn(world, "key", "chat")
    assert [await may(world, who, "bank.pay") for who in (chat, elsewhere, beside)] == [False, True, True]
    await turn(world, "key", "chat", on=False)
    for nobody in ("key_0", beside.id):
        with pytest.raises(NotFound):
            await turn(world, "key", nobody, by=operator(), workspace="")
    await turn(world, "key", "chat", by=operator(), workspace="")
    assert [await may(world, who, "bank.pay") for who in (chat, elsewhere, beside)] == [False, False, True]
    await turn(world, "key", "chat", on=False, by=operator(), workspace="")
    assert await may(world, chat, "bank.pay")


async def test_a_stop_of_a_service_that_acts_elsewhere_by_now_can_be_lifted(world: World) -> None:
    await turn(world, "key", "chat")
    moved = module.KillSwitch(world.database, world.catalog, {"chat": "other"})
    off = {"on": False, "kind": "key", "subject": "chat", "workspace": "default", "reason": "moved"}
    assert await moved.turn(person(), request_id=REQUEST, **off) == []
    with pytest.raises(NotFound):
        await moved.turn(person(), request_id=REQUEST, **{**off, "on": True})


async def test_the_operator_stops_everything_and_every_workspace_is_told(world: World) -> None:
    assert await may(world, principal(), "bank.look")
    await turn(world, "everything", by=operator())
    for workspace in ("default", "other", "unheard-of"):
        assert not await may(world, principal(workspace), "bank.look")
    with pytest.raises(Stopped) as caught:
        await world.begin(principal("other"), "bank.look")
    assert caught.value.extensions == {"scope": "everything", "reason": "it went wrong"}
    assert [stop.kind for stop in await world.kill_switch.on("other")] == ["everything"]
    with pytest.raises(Denied):
        await turn(world, "everything", on=False)
    await turn(world, "everything", on=False, by=operator())
    assert await may(world, principal("other"), "bank.look")
    told = await events(world)
    expected = [("", "everything"), ("default", "everything"), ("other", "everything")]
    assert [one[1:] for one in told if one[0] == "policy:kill_switch:on"] == expected
    assert [one[1:] for one in told if one[0] == "policy:kill_switch:off"] == expected


async def test_the_operator_stops_an_action_everywhere_or_in_one_workspace(world: World) -> None:
    await turn(world, "action", "bank.pay", by=operator(), workspace="other")
    assert await may(world, principal(), "bank.pay") and not await may(world, principal("other"), "bank.pay")
    await turn(world, "connector", "bank", by=operator(), workspace="")
    assert not await may(world, principal(), "bank.look")
    assert await may(world, principal(), "post.send")


async def test_turning_it_twice_changes_nothing(world: World) -> None:
    await turn(world, "action", "bank.pay")
    (stop,) = await turn(world, "action", "bank.pay", reason="another one")
    assert stop.reason == "it went wrong"
    for _ in range(2):
        assert await turn(world, "action", "bank.pay", on=False) == []
    assert [tag for tag, *_ in await events(world)] == ["policy:kill_switch:on", "policy:kill_switch:off"]


async def test_an_agent_turns_it_on_and_not_off(world: World) -> None:
    await turn(world, "workspace", "default", by=principal())
    with pytest.raises(Denied):
        await turn(world, "workspace", "default", on=False, by=principal())
    assert not await may(world, principal(), "bank.look")
    await turn(world, "workspace", "default", on=False, by=person())
    assert await may(world, principal(), "bank.look")


async def test_whoever_is_stopped_cannot_let_itself_go(world: World) -> None:
    thief = await world.ring.principal(kind="person")
    made, _ = await world.ring.make(maker=thief, kind="person")
    child = await world.ring.api_keys.reload(made.id)
    await turn(world, "key", thief.id)
    for who in (thief, child):
        with pytest.raises(Stopped):
            await turn(world, "key", thief.id, on=False, by=who)
    assert not await may(world, child, "bank.look")
    await turn(world, "key", thief.id, on=False)
    assert await may(world, child, "bank.look")


async def test_what_the_operator_stopped_only_the_operator_lets_go(world: World) -> None:
    await turn(world, "workspace", "default", by=operator(), workspace="default")
    with pytest.raises(Denied):
        await turn(world, "workspace", "default", on=False)
    await turn(world, "workspace", "default")
    stops = await turn(world, "workspace", "default", on=False)
    assert [stop.authority for stop in stops] == ["operator"]
    assert not await may(world, principal(), "bank.look")
    await turn(world, "workspace", "default")
    assert await turn(world, "workspace", "default", on=False, by=operator(), workspace="default") == []
    assert await may(world, principal(), "bank.look")


async def test_other_workspaces_ids_and_names_that_do_not_exist(world: World) -> None:
    foreign = await world.ring.principal(workspace="other")
    for kind, subject in (("workspace", "other"), ("key", foreign.id), ("key", "key_0")):
        for on in (True, False):
            with pytest.raises(NotFound):
                await turn(world, kind, subject, on=on)
    for kind, subject in (("action", "bank.rob"), ("connector", "nowhere")):
        for on in (True, False):
            with pytest.raises(Invalid) as caught:
                await turn(world, kind, subject, on=on)
            assert caught.value.extensions["errors"][0]["pointer"] == f"/scope/{kind}"
    for where in ("nowhere", "No Such"):
        with pytest.raises(NotFound):
            await turn(world, "workspace", where, by=operator(), workspace=where)
    with pytest.raises(NotFound):
        await turn(world, "action", "bank.pay", workspace="other")
    assert await world.kill_switch.on_everywhere() == []


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "two\nlines", "\x1b[2J"])
async def test_a_reason_that_cannot_be_shown_is_none(world: World, reason: str) -> None:
    with pytest.raises(Invalid):
        await turn(world, "workspace", "default", reason=reason)


async def test_a_workspace_has_a_bounded_number_of_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STOPS", 1)
    await turn(world, "action", "bank.pay")
    with pytest.raises(Conflict):
        await turn(world, "action", "post.send")
    await turn(world, "everything", by=operator())


async def test_nothing_that_another_process_begins_is_later_than_the_answer(target: Target) -> None:
    """Two processes begin without pause while one turns the switch; each beginning is timed after its commit."""
    async with open_world(target) as one, open_world(target) as two:
        await one.ring.principal()
        for round_ in range(5):
            running = asyncio.Event()
            begun: list[int] = []

            async def begin_for_ever(world: World, begun: list[int] = begun, running: asyncio.Event = running) -> None:
                while True:
                    before = await count(world)
                    try:
                        await world.begin(principal(), "bank.look")
                    except Stopped:
                        return
                    begun.append(before)
                    if len(begun) > 10:
                        running.set()

            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(begin_for_ever(world)) for world in (one, two) for _ in range(3)]
                await running.wait()
                await turn(one, "workspace", "default")
                answered = await count(one)
                await asyncio.wait(workers)
            assert await count(one) == answered, f"something began after the answer, in round {round_}"
            await turn(one, "workspace", "default", on=False)


async def test_a_turn_waits_for_what_is_beginning_in_another_process(postgres_target: Target) -> None:
    async with open_world(postgres_target) as one, open_world(postgres_target) as two:
        await one.ring.principal()
        looked, go_on = threading.Event(), threading.Event()
        spec, attempt = two.spec("bank.look"), new_id("att")

        def unit(tx: Tx) -> None:
            two.kill_switch.check(tx, principal(), spec)
            looked.set()
            go_on.wait(1.0)
            AttemptRepository("default").insert(tx, **row(principal(), spec, attempt))

        beginning = asyncio.create_task(two.database.writer.run(unit))
        await asyncio.to_thread(looked.wait, 10)
        turning = asyncio.create_task(turn(one, "workspace", "default"))
        done, _ = await asyncio.wait([turning], timeout=0.5)
        assert not done, "the turn was answered while an attempt was beginning"
        go_on.set()
        await beginning
        await turning
        assert await count(one) == 1


async def count(world: World) -> int:
    rows = await world.database.reader.all(select(func.count()).select_from(attempts))
    return int(rows[0][0])


async def test_another_process_tells_within_a_second(target: Target) -> None:
    async with open_world(target) as one, open_world(target) as two:
        await one.ring.principal()
        spec = two.spec("bank.look")
        assert await two.kill_switch.stopped(principal(), spec) is None
        await turn(one, "workspace", "default")
        turned = time.monotonic()
        while True:
            asked = time.monotonic()
            if await two.kill_switch.stopped(principal(), spec) is not None:
                break
            assert asked - turned < 1.0, "it was still unknown a second after the turn"
            await asyncio.sleep(0.01)


async def test_without_its_row_nothing_begins_and_nothing_turns(world: World) -> None:
    gone = Query(delete(generations).where(generations.c.name == "kill_switch"))
    await world.database.writer.run(lambda tx: tx.run(gone))
    with pytest.raises(StoreUnavailable):
        await world.begin(principal(), "bank.look")
    with pytest.raises(StoreUnavailable):
        await turn(world, "workspace", "default")


async def waiting(
    world: World, who: Principal, action: str, number: int = 1, status: str = "pending_approval"
) -> list[str]:
    """Insert attempts that wait."""
    ids = [new_id("att") for _ in range(number)]
    rows = [
        row(who, world.spec(action), attempt_id, status=status, lease_until=None, not_before=2**62)
        | {"workspace_id": who.workspace_id}
        for attempt_id in ids
    ]
    await world.database.writer.run(lambda tx: tx.many(Query(insert(attempts)), rows))
    return ids


async def queued_run(world: World, who: Principal, *actions: str, begun: bool = False) -> str:
    run = RunRow(new_id("run"), who.workspace_id, who.id, None, REQUEST, "queued", now())
    steps = [
        StepRow(run.id, run.workspace_id, place, f"s{place}", action, "", "[]", "queued")
        for place, action in enumerate(actions)
    ]

    def unit(tx: Tx) -> None:
        RunRepository(who.workspace_id).insert(tx, run, steps)
        if begun:
            tx.run(
                Query(
                    update(run_steps)
                    .where(run_steps.c.run_id == run.id, run_steps.c.position == 0)
                    .values(status="running")
                )
            )

    await world.database.writer.run(unit)
    return run.id


async def statuses(world: World, table: Any, ids: list[str]) -> dict[str, int]:
    rows = await world.database.reader.all(
        select(table.c.status, func.count()).where(table.c.id.in_(ids)).group_by(table.c.status)
    )
    return {row[0]: row[1] for row in rows}


@pytest.mark.parametrize("kind", ["workspace", "key", "action", "connector", "everything"])
async def test_what_waits_behind_a_stop_is_cancelled_and_nothing_else(world: World, kind: str) -> None:
    mine, beside = await world.ring.principal(), await world.ring.principal()
    made, _ = await world.ring.make(maker=mine)
    child = await world.ring.api_keys.reload(made.id)
    other = await world.ring.principal(workspace="other")
    places = [
        (mine, "bank.pay"),
        (child, "bank.look"),
        (beside, "bank.pay"),
        (beside, "post.send"),
        (other, "bank.pay"),
    ]
    stopped = {
        "workspace": places[:4],
        "key": places[:2],
        "action": [places[0], places[2]],
        "connector": places[:3],
        "everything": places,
    }[kind]
    subject = {"workspace": "default", "key": mine.id, "action": "bank.pay", "connector": "bank"}.get(kind, "")
    pending = {(who.id, action): await waiting(world, who, action) for who, action in places}
    ready = {(who.id, action): await waiting(world, who, action, status="ready") for who, action in places}
    queued = {(who.id, action): [await queued_run(world, who, action)] for who, action in places}
    by = operator() if kind == "everything" else person()
    await turn(world, kind, subject, by=by)
    for who, action in places:
        expected = {"cancelled": 1} if (who, action) in stopped else None
        place = (who.id, action)
        assert await statuses(world, attempts, pending[place]) == (expected or {"pending_approval": 1}), place
        assert await statuses(world, attempts, ready[place]) == (expected or {"ready": 1}), place
        assert await statuses(world, runs, queued[place]) == (expected or {"queued": 1}), place
    row_ = await AttemptRepository("default").get(world.database.reader, pending[mine.id, "bank.pay"][0])
    assert (row_.error_code, row_.error_status) == ("stopped", 403) and "it went wrong" in (row_.error_detail or "")
    cancelled = [one for one in await events(world) if one[0] == "policy:kill_switch:cancelled"]
    assert len(cancelled) == 2 * len(stopped)
    ended = await events(world, "runs:run:finished")
    assert len(ended) == len(stopped)


async def test_a_run_with_a_step_under_way_is_left_to_its_worker(world: World) -> None:
    under_way = await queued_run(world, principal(), "post.send", "bank.pay", begun=True)
    later = await queued_run(world, principal(), "post.send", "bank.pay")
    await turn(world, "action", "bank.pay")
    assert await statuses(world, runs, [under_way]) == {"queued": 1}
    assert await statuses(world, runs, [later]) == {"cancelled": 1}
    steps = select(run_steps.c.status).where(run_steps.c.run_id == later)
    assert [row[0] for row in await world.database.reader.all(steps)] == ["cancelled"] * 2
    seen = select(run_events.c.kind, run_events.c.status).where(run_events.c.run_id == later)
    assert ("run", "cancelled") in [tuple(one) for one in await world.database.reader.all(seen)]


async def test_thousands_that_wait_are_cancelled_in_bounded_steps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    for _ in range(3):
        ids += await waiting(world, principal(), "bank.pay", 1000)
    beside = await waiting(world, principal(), "post.send", 20)
    sizes: list[int] = []
    run = world.database.writer.run

    async def watched(unit: Any, **options: Any) -> Any:
        result = await run(unit, **options)
        if isinstance(result, int):
            sizes.append(result)
        return result

    monkeypatch.setattr(world.database.writer, "run", watched)
    await turn(world, "action", "bank.pay")
    while await waiting_of(world, "bank.pay"):  # what a database on a busy machine did not take is taken by the sweep
        await world.kill_switch.stopping.once()
    assert len(sizes) >= 15 and max(sizes) <= 200
    assert await statuses(world, attempts, beside) == {"pending_approval": 20}


async def waiting_of(world: World, action: str) -> int:
    rows = await world.database.reader.all(
        select(func.count()).where(attempts.c.action == action, attempts.c.status == "pending_approval")
    )
    return int(rows[0][0])


async def test_it_survives_a_restart_says_so_and_cancels_what_was_left(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(target) as world:
        await world.ring.principal()
        await turn(world, "action", "bank.pay", reason="a private matter")
        left = await waiting(world, principal(), "bank.pay")
    async with open_world(target) as world:
        assert not await may(world, principal(), "bank.pay")
        with caplog.at_level(logging.WARNING, "relay.policy"):
            await world.kill_switch.stopping.start()
        try:
            assert "the kill switch is on: action:bank.pay of workspace default is stopped" in caplog.text
            assert "private" not in caplog.text
            until = time.monotonic() + 30
            while await statuses(world, attempts, left) != {"cancelled": 1}:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
        finally:
            await world.kill_switch.stopping.stop()
