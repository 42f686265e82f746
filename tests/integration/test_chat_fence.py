"""Two processes and one turn: whoever was replaced writes nothing more; sessions have bounds; calls are made once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

import relay.chat.beginning
import relay.gate.decide
import relay.gate.perform
from relay.chat.entries import AssistantEntry, CallEntry, NoteEntry
from relay.chat.journal import Claim, End, Journal
from relay.chat.views import TurnHandle
from relay.core.action import Decision
from relay.core.clock import DAY
from relay.core.principal import KeyKind, Principal
from relay.core.problem import Conflict
from relay.runs.changes import Changes
from relay.runs.journal import LeaseLost
from relay.store.chat import TurnRow
from relay.store.chat_reading import turn_of_any_workspace
from relay.store.query import Query
from relay.store.tables import attempts
from relay.store.tables.chat import chat_turns
from relay.store.target import Target
from tests.chat_world import ADDRESS, PATIENCE, REQUEST, ChatWorld, open_chat
from tests.model_server import call, hang, open_model_server, say


async def lapse(world: ChatWorld) -> None:
    """Have every lease be over, as when its holder was stopped for long."""
    await world.house.database.writer.run(lambda tx: tx.run(Query(update(chat_turns).values(lease_until=1))))


def journal(world: ChatWorld) -> Journal:
    """Return the journal of another process."""
    return Journal(world.house.database, world.house.vault, Changes(), retention=DAY)


async def row(world: ChatWorld, turn_id: str) -> TurnRow:
    found = await turn_of_any_workspace(world.house.database.reader, turn_id)
    assert found is not None
    return found


async def test_whoever_was_replaced_writes_nothing(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model, chat=False) as world:
        owner = await world.key()
        model.reply(hang())
        handle = await world.send(owner, "Hello")
        await model.arrived(1)
        other = journal(world)
        assert await other.claim(handle.turn_id, "thief") is None, "a lease that holds is not taken"
        await lapse(world)
        new = await other.claim(handle.turn_id, "other")
        assert new is not None
        assert await other.claim(handle.turn_id, "third") is None
        old = Claim(new.session, replace(new.turn, fence=new.turn.fence - 1))
        made = CallEntry("cll_1", "thing.read", "running", {}, "", "read", wanted={"what": "x"})
        await other.answered(new, [AssistantEntry("Yes.", "m")], [made], None)
        before = await row(world, handle.turn_id)
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: other.answered(old, [AssistantEntry("No.", "m")], [], End("done")),
            lambda: other.called(old, replace(made, wanted=None, status="succeeded")),
            lambda: other.park(old, NoteEntry("x", "x")),
            lambda: other.finish(old, End("done")),
            lambda: other.keep_text(old, b"[]"),
        ]
        for write in writes:
            with pytest.raises(LeaseLost):
                await write()
        assert await other.renew(old) is False
        await other.release(old)
        assert await row(world, handle.turn_id) == before
        assert await other.renew(new) is True
        # What was recorded is recorded once, also when its writer has not heard so.
        assert await other.answered(new, [AssistantEntry("Yes.", "m")], [made], None) == []
        done = replace(made, wanted=None, status="succeeded", attempt_id="att_1", result={})
        assert len(await other.called(new, done)) == 1
        assert await other.called(new, done) == []


async def test_a_turn_that_is_taken_over_makes_each_call_once(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        begun, go_on = world.world.hold("slow")
        model.reply(say("", call("thing-read", {"what": "slow"})))
        handle = await world.send(owner, "Read")
        await begun.wait()
        # The holder still makes the call when another takes the turn over: the second waits for what the first does.
        await lapse(world)
        claim = await journal(world).claim(handle.turn_id, "other")
        assert claim is not None
        model.reply(say("It is SLOW."))
        world.chat._runner.begin(claim)
        await asyncio.sleep(0.2)
        go_on.set()
        view = await world.until(handle.turn_id, "done", "failed")
        assert (view.message, [made.status for made in view.calls]) == ("It is SLOW.", ["succeeded"])
        assert world.world.whats == ["slow"]
        assert len(model.asked) == 2


async def taken_and_ended(world: ChatWorld, owner: Principal, handle: TurnHandle) -> None:
    await lapse(world)
    other = journal(world)
    claim = await other.claim(handle.turn_id, "other")
    assert claim is not None
    await other.finish(claim, End("cancelled"))


async def deleted(world: ChatWorld, owner: Principal, handle: TurnHandle) -> None:
    await world.chat.delete(owner, handle.session_id, REQUEST)


@pytest.mark.parametrize("over", [taken_and_ended, deleted])
@pytest.mark.parametrize("kind", ["person", "agent"])
async def test_a_call_of_a_turn_that_is_over_neither_begins_nor_waits(
    target: Target,
    tmp_path: Path,
    kind: KeyKind,
    over: Callable[[ChatWorld, Principal, TurnHandle], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def decide(*given: Any) -> Decision:
        reached.set()
        await go_on.wait()
        return await relay.gate.decide.decide(*given)

    monkeypatch.setattr(relay.gate.perform, "decide", decide)
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model, chat=False) as world:
        owner = await world.key(kind=kind)
        model.script = lambda _: say("", call("thing-put", {"what": "late"}))
        handle = await world.send(owner, "Put")
        # Its holder has looked at its lease for the last time and is on its way through the gate.
        await asyncio.wait_for(reached.wait(), PATIENCE)
        await over(world, owner, handle)
        go_on.set()
        await asyncio.wait_for(asyncio.gather(*world.chat._runner._tasks), PATIENCE)
        assert world.world.whats == []
        assert await world.house.database.reader.all(select(attempts.c.id)) == [], "an intent was written"


@pytest.mark.parametrize(
    ("bound", "limit"), [("MAX_TURNS", "turns"), ("MAX_ENTRIES", "entries"), ("MAX_BYTES", "bytes")]
)
async def test_a_session_has_bounds(
    target: Target, tmp_path: Path, bound: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.script = lambda _: say("Hello.")
        view = await world.say(owner, "Hello")
        assert (await world.say(owner, "Hello", view.session_id)).status == "done"
        monkeypatch.setattr(relay.chat.beginning, bound, 2)
        with pytest.raises(Conflict) as refused:
            await world.send(owner, "Hello", view.session_id)
        assert refused.value.extensions["limit"] == limit
        monkeypatch.undo()
        assert (await world.say(owner, "Hello", view.session_id)).status == "done"


async def test_a_principal_has_so_many_sessions_and_bytes_and_no_more(target: Target, tmp_path: Path) -> None:
    settings = {"CHAT_SESSIONS_PER_PRINCIPAL": "2", "CHAT_STORED_MIB_PER_PRINCIPAL": "1"}
    async with open_chat(target, tmp_path / "data", **settings) as world:
        owner, other = await world.key(), await world.key()
        first = await world.say(owner, "Hello")
        await world.say(owner, "Hello")
        with pytest.raises(Conflict) as refused:
            await world.send(owner, "Hello")
        assert refused.value.extensions["limit"] == "sessions"
        await world.say(other, "Hello")
        await world.chat.delete(owner, first.session_id, REQUEST)
        again = await world.say(owner, "Hello")
        many = "x" * 1024 * 1024
        with pytest.raises(Conflict) as refused:
            await world.send(owner, many, again.session_id)
        assert refused.value.extensions["limit"] == "stored"


@pytest.mark.parametrize(("bound", "limit"), [("MAX_ENTRIES", "entries"), ("MAX_BYTES", "bytes")])
async def test_edits_fill_no_session_beyond_its_bounds(
    target: Target, tmp_path: Path, bound: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.reply(say("", call("thing-put", {"what": "one"})))
        view = await world.say(owner, "Put")
        [made] = view.calls
        monkeypatch.setattr(relay.chat.beginning, bound, 2)
        with pytest.raises(Conflict) as refused:
            await world.chat.edit_call(owner, view.session_id, made.id, {"what": "two"}, REQUEST, ADDRESS)
        assert refused.value.extensions["limit"] == limit
        found = await world.chat.find_call(owner, view.session_id, made.id)
        assert (found.status, found.approval_id) == ("pending_approval", made.approval_id), "it was withdrawn"
