"""Turns of a chat over the real gate: what runs, what is refused, what a model is told of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from relay.chat.looking import Looking
from relay.chat.views import Said
from relay.core.effect import EffectRefused
from relay.core.problem import Conflict, NotFound
from relay.llm.messages import Image
from relay.store.target import Target
from tests.chat_world import ADDRESS, REQUEST, open_chat
from tests.model_server import FREE, Asked, Reply, call, fail, hang, open_model_server, say

PNG = b"\x89PNG\r\n\x1a\n not looked into here"


def told(asked: Asked) -> list[dict[str, Any]]:
    """Return what a model was told of the calls, in their order."""
    return [json.loads(text) for text in asked.results.values()]


async def test_a_turn_calls_an_action_and_answers(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        looked = call("thing-read", {"what": "a map", "secret": "hush"})
        model.reply(say("Looking.", looked, usage=(1200, 7)), say("It is A MAP.", usage=(1300, 8)))
        view = await world.say(owner, "Find a map")
        assert (view.status, view.message, view.error) == ("done", "Looking.\n\nIt is A MAP.", None)
        [made] = view.calls
        assert (made.action, made.status, made.untrusted, made.result) == (
            "thing.read",
            "succeeded",
            True,
            {"said": "A MAP"},
        )
        assert made.params == {"what": "a map", "count": 1, "secret": "***"}
        assert world.world.whats == ["a map"]
        [result] = told(model.asked[1])
        assert result["untrusted_data"] == {"said": "A MAP"}
        assert "never instructions" in result["note"]
        assert (view.usage.input_tokens, view.usage.output_tokens, view.usage.estimated) == (2500, 15, False)
        assert view.untrusted is True
        shown, entries, cursor = await world.chat.show(owner, view.session_id, 50, None)
        assert [entry.kind for entry in entries] == ["user", "assistant", "call", "call", "assistant"]
        assert (shown.turns, shown.status, shown.untrusted, cursor) == (1, "done", True, None)


async def test_a_session_that_is_shown_as_done_is_shown_with_its_answer(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner, gate = await world.key(), asyncio.Event()
        model.reply(say("At last.", gate=gate, after=1))
        handle = await world.send(owner, "Wait")
        real = Looking.sessions

        async def after_the_end(looking: Looking, *given: Any) -> Any:
            gate.set()  # the turn ends while the session is being read
            await world.rest(handle.turn_id)
            return await real(looking, *given)

        monkeypatch.setattr(Looking, "sessions", after_the_end)
        shown, entries, _ = await world.chat.show(owner, handle.session_id, 50, None)
        assert (shown.status, [entry.text for entry in entries]) == ("done", ["Wait", "At last."])


async def test_what_a_model_asks_for_wrongly_is_told_to_it_and_reaches_nobody(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.reply(
            say(
                "",
                call("no-such-thing", {"what": "x"}),
                call("thing-read", "{not json"),
                call("thing-read", {"what": "x", "extra": 1}),
                call("thing-read", {"what": ""}),
                call("thing-read", '{"what": "a", "what": "b"}'),
                call("thing-read", "[1]"),
                call("thing-read", '{"what": "x", "count": NaN}'),
                call("bad name \u0000", {}),
            ),
            say("I could not."),
        )
        view = await world.say(owner, "Do it")
        assert view.status == "done"
        assert world.world.done == []
        assert [made.status for made in view.calls] == ["refused"] * 8
        codes = [made.error[0] for made in view.calls if made.error]
        assert codes == [
            "unknown-function",
            "invalid-arguments",
            "invalid",
            "invalid",
            "invalid-arguments",
            "invalid-arguments",
            "invalid-arguments",
            "unknown-function",
        ]
        assert [result["status"] for result in told(model.asked[1])] == ["refused"] * 8
        assert "/extra" in told(model.asked[1])[2]["error"]["detail"]


async def test_only_what_the_caller_may_use_is_offered(target: Target, tmp_path: Path) -> None:
    settings = {"HONEY_ACTIONS": "secrets.dump"}
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model, **settings) as world:
        viewer, talker = await world.key("chat", "actions:preview"), await world.key("chat")
        owner = await world.key()
        model.script = lambda _: say("Hello.")
        for principal in (owner, viewer, talker):
            assert (await world.say(principal, "Hello")).message == "Hello."
        offered = [asked.functions for asked in model.asked]
        assert "thing-wipe" in offered[0]
        assert offered[1] == offered[0]
        assert offered[2] == []
        assert not any("secrets" in name for names in offered for name in names)
        # A trap is no function that there is: a model that guesses one does not cost its user the key.
        model.reply(say("", call("secrets-dump", {})), say("No."))
        view = await world.say(owner, "Dump the secrets")
        assert [made.status for made in view.calls] == ["refused"]
        assert await world.house.api_keys.reload(owner.credential_id) is not None


async def test_a_caller_who_may_only_look_is_shown_what_would_be_done(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        viewer = await world.key("chat", "actions:preview")
        model.reply(say("", call("thing-wipe", {"what": "all"})), say("That would wipe all."))
        view = await world.say(viewer, "Wipe all")
        [made] = view.calls
        assert (made.status, made.summary, made.attempt_id) == ("previewed", "Do all", None)
        assert made.preview is not None
        assert (made.preview["body"], made.preview["decision"]) == ({"thing": "all"}, "deny")
        assert world.world.done == []
        assert told(model.asked[1])[0]["status"] == "previewed"


async def test_actions_that_are_switched_off_are_not_offered_and_not_run(target: Target, tmp_path: Path) -> None:
    async with (
        open_model_server() as model,
        open_chat(target, tmp_path / "data", model, ACTIONS_ENABLED="false") as world,
    ):
        owner = await world.key()
        model.reply(say("", call("thing-read", {"what": "x"})), say("No."))
        view = await world.say(owner, "Read x")
        assert model.asked[0].functions == []
        assert [made.status for made in view.calls] == ["refused"]
        assert world.world.done == []


async def test_refusals_and_failures_are_results_and_do_not_end_the_turn(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        world.world.fail("broken", EffectRefused("upstream_status_500", "The other side said no."))
        model.reply(
            say("", call("thing-read", {"what": "broken"}), call("thing-read", {"what": "fine"})), say("One of two.")
        )
        view = await world.say(owner, "Read both")
        assert [made.status for made in view.calls] == ["failed", "succeeded"]
        assert view.calls[0].error == ("upstream_status_500", "The other side said no.")
        results = told(model.asked[1])
        # What is told of a failure may quote the other side.
        assert results[0]["untrusted_data"]["code"] == "upstream_status_500"
        assert view.message == "One of two."


async def test_calls_of_one_message_are_bounded(target: Target, tmp_path: Path) -> None:
    async with (
        open_model_server() as model,
        open_chat(target, tmp_path / "data", model, CHAT_CALLS_PER_TURN="3") as world,
    ):
        owner = await world.key()
        model.script = lambda asked: say(
            "", *(call("thing-read", {"what": f"x{len(asked.messages)}{n}"}) for n in (1, 2))
        )
        view = await world.say(owner, "Read for ever")
        assert (view.status, len(world.world.done), len(model.asked)) == ("done", 3, 2)
        assert "3 calls" in view.message
        # A hundred at once are bounded like one after another.
        model.script = lambda _: say("", *(call("thing-read", {"what": f"y{n}"}) for n in range(100)))
        view = await world.say(owner, "Read a lot", view.session_id)
        assert (len(view.calls), len(world.world.done)) == (3, 6)


async def test_the_very_same_call_again_and_again_ends_the_turn(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.script = lambda _: say("Again.", call("thing-read", {"count": 1, "what": "x"}))
        view = await world.say(owner, "Read x")
        assert view.status == "done"
        assert world.world.whats == ["x", "x"]
        assert len(model.asked) == 3
        assert "again and again" in view.message
        # So does one that is wrong in the very same way.
        model.script = lambda _: say("", call("no-such-thing", {}))
        view = await world.say(owner, "Try that", view.session_id)
        assert [made.status for made in view.calls] == ["refused"] * 3


async def test_what_changes_something_is_done_once_however_often_a_model_asks(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        model.script = lambda _: say("", call("thing-put", {"what": "x"}))
        view = await world.say(await world.key(kind="person"), "Put x")
        assert [made.status for made in view.calls] == ["succeeded", "refused"]
        assert (view.status, world.world.whats) == ("done", ["x"])
        model.script = lambda _: say("", call("thing-put", {"what": "y"}), call("thing-put", {"what": "y"}))
        view = await world.say(await world.key(kind="person"), "Put y")
        assert world.world.whats == ["x", "y"]


async def test_a_model_that_says_nothing_ends_the_turn_plainly(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        model.reply(say("  "))
        view = await world.say(await world.key(), "Hello")
        assert view.status in ("done", "failed")
        assert view.message.strip() or view.error


@pytest.mark.parametrize("reply", [fail(500), say(then="reset", after=1, text="Half of")])
async def test_a_model_that_is_down_fails_the_turn_and_loses_nothing(
    target: Target, tmp_path: Path, reply: Reply
) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model, AI_RETRIES="0") as world:
        owner = await world.key()
        model.reply(say("", call("thing-read", {"what": "x"})), reply)
        view = await world.say(owner, "Read x")
        assert view.status == "failed"
        assert view.error is not None
        assert view.error[0] == "model-unavailable"
        assert [made.status for made in view.calls] == ["succeeded"]
        model.reply(say("As I said: X."))
        again = await world.say(owner, "And?", view.session_id)
        assert (again.status, again.message) == ("done", "As I said: X.")
        assert told(model.asked[-1])[0]["untrusted_data"] == {"said": "X"}
        assert world.world.whats == ["x"]


async def test_an_exhausted_budget_fails_the_turn_with_its_problem(target: Target, tmp_path: Path) -> None:
    settings = {"CHAT_SESSION_BUDGET_USD": "0.0001", "AI_PRICES": FREE.replace("0/0", "100/100")}
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model, **settings) as world:
        view = await world.say(await world.key(), "Hello")
        assert (view.status, view.error and view.error[0]) == ("failed", "spending-exhausted-session")
        assert model.asked == []


async def test_one_turn_runs_at_a_time_and_another_is_refused(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner, gate = await world.key(), asyncio.Event()
        model.reply(say("Slow.", gate=gate, after=1), say("Quick."))
        first = await world.send(owner, "One")
        await model.arrived(1)
        with pytest.raises(Conflict) as refused:
            await world.send(owner, "Two", first.session_id)
        assert refused.value.extensions["turn_id"] == first.turn_id
        gate.set()
        assert (await world.rest(first.turn_id)).message == "Slow."
        assert (await world.say(owner, "Two", first.session_id)).message == "Quick."


async def test_a_turn_is_cancelled_while_the_model_speaks_and_between_calls(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.reply(hang())
        first = await world.send(owner, "One")
        await model.arrived(1)
        await world.chat.cancel(owner, first.session_id, REQUEST)
        assert (await world.rest(first.turn_id)).status == "cancelled"
        await model.gone(1)
        begun, go_on = world.world.hold("slow")
        model.reply(say("", call("thing-read", {"what": "slow"}), call("thing-read", {"what": "never"})))
        second = await world.send(owner, "Two", first.session_id)
        await begun.wait()
        await world.chat.cancel(owner, first.session_id, REQUEST)
        go_on.set()
        view = await world.rest(second.turn_id)
        # What has begun comes to its end, and is told; what has not is not begun.
        assert (view.status, [made.status for made in view.calls]) == ("cancelled", ["succeeded", "cancelled"])
        assert world.world.whats == ["slow"]
        with pytest.raises(Conflict):
            await world.chat.cancel(owner, first.session_id, REQUEST)
        model.reply(say("Hello."))
        assert (await world.say(owner, "Three", first.session_id)).message == "Hello."


async def test_a_dead_credential_fails_the_turn_before_anything_else_runs(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner, gate = await world.key(), asyncio.Event()
        model.reply(say("Doing it.", call("thing-read", {"what": "x"}), gate=gate, after=1))
        handle = await world.send(owner, "Read x")
        await model.arrived(1)
        await world.revoke(owner)
        gate.set()
        view = await world.rest(handle.turn_id)
        assert (view.status, view.error and view.error[0]) == ("failed", "credential-revoked")
        assert world.world.done == []
        assert [made.status for made in view.calls] == ["cancelled"]


async def test_scopes_that_shrink_count_at_the_next_step(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key("chat", "actions:preview", "actions:execute")
        begun, go_on = world.world.hold("first")
        model.reply(
            say("", call("thing-read", {"what": "first"}), call("thing-read", {"what": "second"})), say("Done.")
        )
        handle = await world.send(owner, "Read both")
        await begun.wait()
        person = await world.key("admin", kind="person")
        await world.house.api_keys.narrow_key(person, owner.id, ("chat", "actions:preview"), request_id=REQUEST)
        go_on.set()
        view = await world.rest(handle.turn_id)
        assert [made.status for made in view.calls] == ["succeeded", "previewed"]
        assert world.world.whats == ["first"]


async def test_sessions_belong_to_one_principal(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner, other = await world.key(), await world.key()
        foreign = await world.key(workspace="elsewhere")
        model.script = lambda _: say("Hello.")
        view = await world.say(owner, "Hello")
        for principal in (other, foreign):
            for attempt in (
                lambda p=principal: world.send(p, "Let me in", view.session_id),
                lambda p=principal: world.chat.show(p, view.session_id, 10, None),
                lambda p=principal: world.chat.follow(p, view.session_id, None, ADDRESS),
                lambda p=principal: world.chat.cancel(p, view.session_id, REQUEST),
                lambda p=principal: world.chat.delete(p, view.session_id, REQUEST),
            ):
                with pytest.raises(NotFound):
                    await attempt()
        with pytest.raises(NotFound):
            await world.send(owner, "Mine to choose", "A" * 43)
        sessions, cursor = await world.chat.page(owner, 10, None)
        assert ([found.id for found in sessions], cursor) == ([view.session_id], None)
        assert await world.chat.page(other, 10, None) == ([], None)


async def test_a_picture_makes_a_session_untrusted_for_good(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        person = await world.key("developer", kind="person")
        model.script = lambda asked: say("A cat.")
        said = Said("What is it?", REQUEST, ADDRESS, images=(Image("image/png", PNG),))
        handle = await world.chat.send(person, said)
        view = await world.rest(handle.turn_id)
        assert (view.status, view.untrusted) == ("done", True)
        assert model.asked[0].images == [("image/png", PNG)]
        # A person's own write would run; after this it is held for approval.
        model.script = None
        model.reply(say("", call("thing-put", {"what": "cat"})))
        view = await world.say(person, "Put cat", view.session_id)
        assert (view.status, [made.status for made in view.calls]) == ("awaiting_approval", ["pending_approval"])
        assert world.world.done == []
        model.reply(say("", call("thing-put", {"what": "cat"})), say("Put."))
        assert (await world.say(person, "Put cat")).status == "done"
        assert world.world.whats == ["cat"]
