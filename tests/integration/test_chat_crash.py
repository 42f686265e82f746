"""A process that dies between a call and its record: whoever goes on finds what was done, whatever has changed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from relay.chat.journal import Journal
from relay.chat.views import TurnHandle
from relay.core.clock import DAY
from relay.core.principal import Principal
from relay.store.query import Query
from relay.store.tables import api_keys, idempotency
from relay.store.tables.chat import chat_turns
from relay.store.target import Target
from tests.chat_world import PATIENCE, REQUEST, ChatWorld, World, open_chat
from tests.model_server import call, open_model_server, say

Change = Callable[[ChatWorld, Principal, TurnHandle], Awaitable[None]]


async def two_days_pass(world: ChatWorld, _: Principal, __: TurnHandle) -> None:
    """Have every idempotency key be two days nearer to its end."""
    sooner = update(idempotency).values(expires_at=idempotency.c.expires_at - 2 * DAY)
    await world.house.database.writer.run(lambda tx: tx.run(Query(sooner)))


async def scopes_shrink(world: ChatWorld, _: Principal, __: TurnHandle) -> None:
    """Leave every key with the scope to talk, and no other."""
    less = update(api_keys).values(scopes=json.dumps(["chat"]))
    await world.house.database.writer.run(lambda tx: tx.run(Query(less)))


async def key_is_revoked(world: ChatWorld, owner: Principal, _: TurnHandle) -> None:
    await world.revoke(owner)


async def turn_is_cancelled(world: ChatWorld, owner: Principal, handle: TurnHandle) -> None:
    await world.chat.cancel(owner, handle.session_id, REQUEST)


async def turn_is_cancelled_once_its_lease_is_over(world: ChatWorld, owner: Principal, handle: TurnHandle) -> None:
    await nobody_takes_turns_up(world)
    await leases_are_over(world)
    view = await world.chat.cancel(owner, handle.session_id, REQUEST)
    assert (view.status, [made.status for made in view.calls]) == ("cancelled", ["succeeded"])


async def nobody_takes_turns_up(world: ChatWorld) -> None:
    sweeper = world.chat._runner._sweeper
    assert sweeper is not None
    sweeper.cancel()
    await asyncio.gather(sweeper, return_exceptions=True)


async def leases_are_over(world: ChatWorld) -> None:
    over = Query(update(chat_turns).values(lease_until=1))
    await world.house.database.writer.run(lambda tx: tx.run(over))


async def dies_before_it_records(world: ChatWorld, patch: pytest.MonkeyPatch, begin: Callable[[], Any]) -> Any:
    """Begin a turn whose process gets as far as to have performed a call, and no further."""
    performed = asyncio.Event()

    async def never(*_: object) -> None:
        performed.set()
        await asyncio.Event().wait()

    patch.setattr(Journal, "called", never)
    handle = await begin()
    async with asyncio.timeout(PATIENCE):
        await performed.wait()
    for task in list(world.chat._runner._tasks):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    patch.undo()
    return handle


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (two_days_pass, "done"),
        (scopes_shrink, "done"),
        (key_is_revoked, "failed"),
        (turn_is_cancelled, "cancelled"),
        (turn_is_cancelled_once_its_lease_is_over, "cancelled"),
    ],
)
async def test_what_was_done_before_a_crash_is_found_and_not_done_again(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, status: str
) -> None:
    outside = World()
    async with open_model_server() as model:
        async with open_chat(sqlite_target, tmp_path / "data", model, world=outside) as world:
            owner = await world.key("developer", kind="person")
            model.reply(say("", call("thing-put", {"what": "money"})))
            with monkeypatch.context() as patch:
                handle = await dies_before_it_records(world, patch, lambda: world.send(owner, "Put money"))
            await change(world, owner, handle)
        model.reply(say("It is done."))
        async with open_chat(sqlite_target, tmp_path / "data", model, world=outside) as world:
            view = await world.until(handle.turn_id, status)
    [made] = view.calls
    assert (made.status, made.result) == ("succeeded", {"said": "MONEY"})
    assert outside.whats == ["money"], "nothing is done twice"


@pytest.mark.parametrize("is_over", [False, True])
async def test_what_was_asked_for_before_a_crash_is_withdrawn_with_its_session(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_over: bool
) -> None:
    """It could still be approved, and would run, when nothing of the conversation is left."""
    async with open_model_server() as model, open_chat(sqlite_target, tmp_path / "data", model) as world:
        owner = await world.key("developer", kind="person")
        await nobody_takes_turns_up(world)
        model.reply(say("", call("thing-wipe", {"what": "money"})))
        with monkeypatch.context() as patch:
            handle = await dies_before_it_records(world, patch, lambda: world.send(owner, "Wipe money"))
        if is_over:
            await leases_are_over(world)
        await world.chat.delete(owner, handle.session_id, REQUEST)
        [found], _ = await world.engine.requests.page("default", status=None, cursor=None, limit=9)
        assert found.approval.status == "withdrawn"
