"""Calls that wait: the conversation stands still for them and goes on by itself, here and after a restart."""

import asyncio
import json
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from relay.chat.views import TurnView
from relay.core.principal import Principal
from relay.core.problem import AlreadyDecided, Conflict, Invalid, NotFound
from relay.gate.ask import Ask, AttemptState
from relay.store.chat_reading import turn_of_any_workspace
from relay.store.query import Query
from relay.store.tables import audit_events, envelopes
from relay.store.tables.approvals import approvals
from relay.store.tables.chat import chat_calls, chat_entries, chat_sessions, chat_turns
from relay.store.target import Target
from tests.chat_world import ADDRESS, REQUEST, ChatWorld, World, open_chat
from tests.model_server import ModelServer, call, open_model_server, say


async def people(world: ChatWorld) -> tuple[Principal, Principal]:
    """Return an agent, and a person who may decide."""
    return await world.key(), await world.key("approver", kind="person")


async def held(world: ChatWorld, model: ModelServer, owner: Principal, *whats: str) -> TurnView:
    """Have the model ask for what needs approval, and return the turn that waits."""
    model.reply(say("I will.", *(call("thing-wipe", {"what": what}) for what in whats)))
    view = await world.say(owner, "Wipe")
    assert view.status == "awaiting_approval"
    assert [made.status for made in view.calls] == ["pending_approval"] * len(whats)
    return view


async def test_a_call_that_is_held_is_shown_and_runs_when_approved(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, person = await people(world)
        view = await held(world, model, agent, "disk")
        [made] = view.calls
        assert (made.summary, made.preview and made.preview["body"]) == ("Do disk", {"thing": "disk"})
        assert made.digest is not None and len(made.digest) == 64
        assert made.expires_at is not None
        assert "waits for approval" in view.message
        assert world.world.done == []
        assert len(model.asked) == 1
        approval = await world.chat.approval_of_call("default", view.session_id, made.id)
        assert approval == made.approval_id
        model.reply(say("Wiped."))
        await world.decide(person, made)
        await world.chat.decided(view.session_id, made.id)
        done = await world.until(view.id, "done", "failed")
        assert (done.status, done.message) == ("done", "I will.\n\nWiped.")
        assert [(made.status, made.result) for made in done.calls] == [("succeeded", {"said": "DISK"})]
        assert world.world.whats == ["disk"]
        assert json.loads(model.asked[1].results[made.id])["status"] == "succeeded"
        with pytest.raises(NotFound):
            await world.chat.approval_of_call("elsewhere", view.session_id, made.id)


@pytest.mark.parametrize("how", ["denied", "withdrawn", "stopped", "expired"])
async def test_however_a_request_ends_the_conversation_goes_on(target: Target, tmp_path: Path, how: str) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, person = await people(world)
        view = await held(world, model, agent, "disk")
        [made] = view.calls
        model.reply(say("I see."))
        if how == "denied":
            await world.decide(person, made, "deny")
        elif how == "withdrawn":
            shown = await world.chat.cancel_call(agent, view.session_id, made.id, REQUEST)
            assert shown.status == "cancelled"
        elif how == "stopped":
            admin = await world.key("admin", kind="person")
            await stop(world, admin)
        else:
            await expire(world)
        done = await world.until(view.id, "done", "failed")
        expected = {"denied": "denied", "expired": "expired"}.get(how, "cancelled")
        assert (done.status, [made.status for made in done.calls]) == ("done", [expected])
        assert done.message == "I will.\n\nI see."
        assert world.world.done == []
        assert json.loads(model.asked[1].results[made.id])["status"] == expected


async def stop(world: ChatWorld, admin: Principal) -> None:
    """Turn the kill switch for the whole workspace."""
    about = {"kind": "workspace", "subject": "default", "workspace": "default", "reason": "test"}
    await world.engine.kill_switch.turn(admin, on=True, request_id=REQUEST, **about)


async def expire(world: ChatWorld) -> None:
    """Have every request's time be over."""
    await world.house.database.writer.run(lambda tx: tx.run(Query(update(approvals).values(expires_at=1))))


async def test_several_held_calls_are_waited_for_together(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, person = await people(world)
        model.reply(
            say(
                "",
                call("thing-wipe", {"what": "one"}),
                call("thing-read", {"what": "two"}),
                call("thing-wipe", {"what": "three"}),
            )
        )
        view = await world.say(agent, "Wipe")
        assert [made.status for made in view.calls] == ["pending_approval", "succeeded", "pending_approval"]
        model.reply(say("One wiped, one not."))
        await world.decide(person, view.calls[0])
        async with asyncio.timeout(60):
            while (await world.chat.find_call(agent, view.session_id, view.calls[0].id)).status != "succeeded":
                await asyncio.sleep(0.05)
        # Nobody is asked before the last one is decided.
        assert (await world.rest(view.id)).status == "awaiting_approval"
        assert len(model.asked) == 1
        await world.decide(person, view.calls[2], "deny")
        done = await world.until(view.id, "done", "failed")
        assert [made.status for made in done.calls] == ["succeeded", "succeeded", "denied"]
        assert sorted(world.world.whats) == ["one", "two"]
        assert len(model.asked) == 2


async def test_a_user_may_speak_while_calls_wait(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, person = await people(world)
        view = await held(world, model, agent, "disk")
        [made] = view.calls
        gate = asyncio.Event()
        model.reply(say("It waits.", gate=gate, after=1), say("Now it is wiped."))
        second = await world.send(agent, "And?", view.session_id)
        await model.arrived(2)
        assert json.loads(model.asked[1].results[made.id])["status"] == "pending_approval"
        # Decided while the other turn runs: it goes on after it, and not beside it.
        await world.decide(person, made)
        async with asyncio.timeout(60):
            while world.world.whats != ["disk"]:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.2)
        assert len(model.asked) == 2
        gate.set()
        assert (await world.rest(second.turn_id)).message == "It waits."
        done = await world.until(view.id, "done", "failed")
        assert done.message == "I will.\n\nNow it is wiped."
        last = model.asked[2].messages
        assert [one["role"] for one in last] == ["system", "user", "assistant", "tool", "user", "assistant", "user"]
        assert last[-1]["content"].startswith("[Relay]")


async def test_a_draft_is_edited(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, person = await people(world)
        view = await held(world, model, agent, "disk")
        [made] = view.calls
        with pytest.raises(Invalid) as refused:
            await world.chat.edit_call(agent, view.session_id, made.id, {"what": ""}, REQUEST, ADDRESS)
        assert refused.value.extensions["errors"][0]["pointer"] == "/params/what"
        edited = await world.chat.edit_call(
            agent, view.session_id, made.id, {"what": "disk two", "count": 2}, REQUEST, ADDRESS
        )
        assert (edited.id, edited.status, edited.params["what"]) == (made.id, "pending_approval", "disk two")
        assert edited.digest != made.digest
        assert edited.approval_id != made.approval_id
        assert {origin.source for origin in edited.origins["/what"]} == {"user"}
        with pytest.raises(AlreadyDecided):
            await world.decide(person, made)
        assert [event["tag"] for event in await events(world, "chat:call:edited")] == ["chat:call:edited"]
        model.reply(say("Wiped two."))
        await world.decide(person, edited)
        done = await world.until(view.id, "done", "failed")
        assert [(one.status, one.params["what"]) for one in done.calls] == [("succeeded", "disk two")]
        assert world.world.whats == ["disk two"]
        result = json.loads(model.asked[1].results[made.id])
        assert (result["edited"], result["params"]["what"]) == ("The user has changed the parameters.", "disk two")
        with pytest.raises(Conflict):
            await world.chat.edit_call(agent, view.session_id, made.id, {"what": "three"}, REQUEST, ADDRESS)
        assert world.world.whats == ["disk two"]


async def test_a_draft_whose_time_is_over_is_not_edited_back_to_life(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, _ = await people(world)
        view = await held(world, model, agent, "disk")
        model.reply(say("Too late."))
        await expire(world)
        with pytest.raises(Conflict):
            await world.chat.edit_call(agent, view.session_id, view.calls[0].id, {"what": "two"}, REQUEST, ADDRESS)
        done = await world.until(view.id, "done", "failed")
        assert (done.message, [made.status for made in done.calls]) == ("I will.\n\nToo late.", ["expired"])


async def test_an_edit_leaves_the_other_calls_as_they_wait(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, _ = await people(world)
        view = await held(world, model, agent, "one", "two")
        first, second = view.calls
        with pytest.raises(NotFound):
            await world.chat.edit_call(
                await world.key(), view.session_id, first.id, {"what": "three"}, REQUEST, ADDRESS
            )
        await world.chat.edit_call(agent, view.session_id, first.id, {"what": "three"}, REQUEST, ADDRESS)
        calls = (await world.rest(view.id)).calls
        assert [(one.status, one.params["what"]) for one in calls] == [
            ("pending_approval", "three"),
            ("pending_approval", "two"),
        ]
        assert calls[1].approval_id == second.approval_id
        assert len(model.asked) == 1


async def test_deleting_withdraws_what_waits_and_leaves_nothing(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, person = await people(world)
        view = await held(world, model, agent, "disk")
        assert await kept(world) > 0
        await world.chat.delete(agent, view.session_id, REQUEST)
        assert await kept(world) == 0
        with pytest.raises(NotFound):
            await world.chat.show(agent, view.session_id, 10, None)
        with pytest.raises(NotFound):
            await world.chat.finished(view.id)
        with pytest.raises(AlreadyDecided):
            await world.decide(person, view.calls[0])
        assert len(await events(world, "chat:session:deleted")) == 1


async def test_deleting_while_the_model_speaks_ends_the_turn(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, gate = await world.key(), asyncio.Event()
        model.reply(say("I will.", call("thing-read", {"what": "x"}), gate=gate, after=1))
        handle = await world.send(agent, "Read")
        await model.arrived(1)
        await world.chat.delete(agent, handle.session_id, REQUEST)
        gate.set()
        await model.gone(1)
        assert await kept(world) == 0
        assert world.world.done == []


async def test_an_expired_session_goes_with_everything_in_it(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent = await world.key()
        model.reply(say("Hello."))
        view = await world.say(agent, "Hello")
        session, _, _ = await world.chat.show(agent, view.session_id, 1, None)
        await world.engine.purge.once(session.expires_at)
        assert await kept(world) > 0
        await world.engine.purge.once(session.expires_at + 1)
        assert await kept(world) == 0


async def test_a_held_back_call_is_waited_for_and_may_be_recalled(target: Target, tmp_path: Path) -> None:
    settings = {"HOLD_BACK_SECONDS": "2"}
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model, **settings) as world:
        agent = await world.key()
        model.reply(say("", call("thing-post", {"what": "letter"})), say("Posted."))
        view = await world.say(agent, "Post")
        assert (view.status, [made.status for made in view.calls]) == ("awaiting_approval", ["running"])
        assert "not come to its end" in view.message
        done = await world.until(view.id, "done", "failed")
        assert (done.message, [made.status for made in done.calls]) == ("Posted.", ["succeeded"])
        model.reply(say("", call("thing-post", {"what": "second"})), say("Not posted."))
        view = await world.say(agent, "Post another")
        cancelled = await world.chat.cancel_call(agent, view.session_id, view.calls[0].id, REQUEST)
        assert cancelled.status == "cancelled"
        assert (await world.until(view.id, "done", "failed")).message == "Not posted."
        assert world.world.whats == ["letter"]


async def test_cancelling_a_turn_that_waits_withdraws_what_it_waits_for(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, person = await people(world)
        view = await held(world, model, agent, "disk")
        cancelled = await world.chat.cancel(agent, view.session_id, REQUEST)
        assert (cancelled.status, [made.status for made in cancelled.calls]) == ("cancelled", ["cancelled"])
        with pytest.raises(AlreadyDecided):
            await world.decide(person, view.calls[0])
        assert world.world.done == []


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_what_begins_to_wait_when_its_turn_is_over_is_withdrawn(
    target: Target, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is written while somebody ends the turn: nobody is to agree to it afterwards."""
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        agent, begun, go_on = await world.key(), asyncio.Event(), asyncio.Event()
        performer, perform = world.engine.performer, world.engine.performer.perform

        async def slowly(principal: Principal, ask: Ask) -> AttemptState:
            state = await perform(principal, ask)
            begun.set()
            await go_on.wait()
            return state

        monkeypatch.setattr(performer, "perform", slowly)
        model.reply(say("", call("thing-wipe", {"what": "disk"})))
        handle = await world.send(agent, "Wipe")
        await begun.wait()
        if how == "cancel":
            await world.chat.cancel(agent, handle.session_id, REQUEST)
        else:
            await world.chat.delete(agent, handle.session_id, REQUEST)
        go_on.set()
        async with asyncio.timeout(60):
            while (found := await world.house.database.reader.all(select(approvals.c.status)))[0][0] == "pending":
                await asyncio.sleep(0.05)
        assert [row[0] for row in found] == ["withdrawn"]
        assert world.world.done == []


async def test_a_restart_between_question_and_approval_changes_nothing(target: Target, tmp_path: Path) -> None:
    outside = World()
    async with open_model_server() as model:
        async with open_chat(target, tmp_path / "data", model, world=outside) as world:
            agent, person = await people(world)
            view = await held(world, model, agent, "disk")
        model.reply(say("Wiped."))
        async with open_chat(target, tmp_path / "data", model, world=outside) as world:
            await world.decide(person, view.calls[0])
            done = await world.until(view.id, "done", "failed")
            assert (done.status, done.message) == ("done", "I will.\n\nWiped.")
            assert outside.whats == ["disk"]


async def test_a_decision_made_while_nobody_worked_is_taken_in_at_the_next_start(
    target: Target, tmp_path: Path
) -> None:
    outside = World()
    async with open_model_server() as model:
        async with open_chat(target, tmp_path / "data", model, world=outside) as world:
            agent, person = await people(world)
            view = await held(world, model, agent, "disk")
        async with open_chat(target, tmp_path / "data", model, world=outside, chat=False) as world:
            await world.decide(person, view.calls[0], "deny")
        model.reply(say("Pity."))
        async with open_chat(target, tmp_path / "data", model, world=outside) as world:
            assert (await world.until(view.id, "done", "failed")).message == "I will.\n\nPity."


async def test_a_shutdown_in_the_middle_lets_go_and_the_next_process_goes_on(target: Target, tmp_path: Path) -> None:
    outside = World()
    async with open_model_server() as model:
        gate = asyncio.Event()
        async with open_chat(target, tmp_path / "data", model, world=outside) as world:
            agent = await world.key()
            model.reply(say("", call("thing-read", {"what": "x"})), say("Half of it", gate=gate, after=1))
            handle = await world.send(agent, "Read x")
            await model.arrived(2)
        async with open_chat(target, tmp_path / "data", model, world=outside, chat=False) as world:
            row = await turn_of_any_workspace(world.house.database.reader, handle.turn_id)
            assert row is not None and (row.status, row.holder, row.lease_until) == ("running", None, None)
        model.reply(say("It is X."))
        async with open_chat(target, tmp_path / "data", model, world=outside) as world:
            done = await world.until(handle.turn_id, "done", "failed")
            assert (done.status, done.message) == ("done", "It is X.")
            assert outside.whats == ["x"]
        gate.set()


async def events(world: ChatWorld, tag: str) -> list[dict[str, object]]:
    rows = await world.house.database.reader.all(select(audit_events.c.tag).where(audit_events.c.tag == tag))
    return [{"tag": row[0]} for row in rows]


async def kept(world: ChatWorld) -> int:
    """Return how many rows and envelopes there are of chats."""
    total = 0
    for table in (chat_sessions, chat_turns, chat_entries, chat_calls):
        row = await world.house.database.reader.one(select(func.count()).select_from(table))
        total += 0 if row is None else row[0]
    sealed = select(func.count()).select_from(envelopes).where(envelopes.c.purpose.like("chat-%"))
    row = await world.house.database.reader.one(sealed)
    return total + (0 if row is None else row[0])
