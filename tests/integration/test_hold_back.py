"""Held back: an irreversible action waits a while although it is allowed, and one call recalls it."""

import asyncio
from pathlib import Path

from relay.store.tables import attempts
from relay.store.target import Target
from tests.approvals_kit import PATIENCE, Office, open_office
from tests.integration.test_actions import alter
from tests.redis_server import RedisServer
from tests.sink import open_sink

SEND = "deed.send"


async def due(office: Office, attempt_id: str) -> None:
    """Have the time of an attempt that is held back come now."""
    await alter(office.gateway, attempts.update().where(attempts.c.id == attempt_id).values(not_before=1))


async def test_what_cannot_be_taken_back_waits_and_then_begins_once(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data", HOLD_BACK_SECONDS="3600") as office:
        held = (await office.ask("mail", action=SEND, key=office.owner)).expect(202)
        assert set(held) == {"attempt_id", "status", "action", "held_until"} and held["status"] == "running"
        seen = await office.attempt(held["attempt_id"])
        assert (seen["status"], seen["held_until"], seen["tries"]) == ("running", held["held_until"], 0)
        assert office.deeds.done == []
        await due(office, held["attempt_id"])
        ended = await office.ended(held["attempt_id"])
        assert (ended["status"], ended["held_until"], ended["tries"]) == ("succeeded", None, 1)
        assert office.deeds.done == ["mail"]
        events = await office.gateway.events(target=held["attempt_id"])
        assert [event["tag"] for event in events] == ["gate:action:held", "gate:action:intent", "gate:action:outcome"]
        path = f"/attempts/{held['attempt_id']}/recall"
        (await office.gateway.post(path, key=office.owner)).expect(409)


async def test_one_call_recalls_it(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data", HOLD_BACK_SECONDS="3600") as office:
        other, _ = await office.key("actions:execute", kind="agent")
        headers = {"Idempotency-Key": "once"}
        held = (await office.ask("mail", action=SEND, key=office.owner, headers=headers)).expect(202)
        assert (await office.ask("mail", action=SEND, key=office.owner, headers=headers)).expect(202) == held
        path = f"/attempts/{held['attempt_id']}/recall"
        (await office.gateway.post(path, key=other)).expect(403)
        recalled = (await office.gateway.post(path, key=office.owner)).expect(200)
        assert (recalled["status"], recalled["error"]["code"]) == ("cancelled", "recalled")
        (await office.gateway.post(path, key=office.owner)).expect(409)
        await due(office, held["attempt_id"])
        problem = (await office.ask("mail", action=SEND, key=office.owner, headers=headers)).expect(403)
        assert problem["code"] == "recalled"
        assert office.deeds.done == []


async def test_a_recall_against_the_beginning(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data", HOLD_BACK_SECONDS="3600") as office:
        for turn in range(6):
            held = (await office.ask(str(turn), action=SEND, key=office.owner)).expect(202)
            path = f"/attempts/{held['attempt_id']}/recall"
            both = [due(office, held["attempt_id"]), asyncio.sleep(0.1 * turn)]
            await asyncio.gather(*both)
            answer = await office.gateway.post(path, key=office.owner)
            ended = await office.ended(held["attempt_id"])
            assert (answer.status, ended["status"]) in ((200, "cancelled"), (409, "succeeded"))
            assert office.deeds.done.count(str(turn)) == (answer.status == 409)


async def test_what_was_approved_is_held_back_as_well(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data", HOLD_BACK_SECONDS="3600") as office:
        request = await office.requested("mail", action=SEND)
        done = (await office.decide(request)).expect(200)
        assert done["status"] == "running" and done["held_until"] is not None
        path = f"/attempts/{request['attempt_id']}/recall"
        recalled = (await office.gateway.post(path, key=office.owner)).expect(200)
        assert recalled["status"] == "cancelled"
        again = await office.requested("another", action=SEND)
        (await office.decide(again)).expect(200)
        await due(office, again["attempt_id"])
        assert (await office.ended(again["attempt_id"]))["status"] == "succeeded"
        assert office.deeds.done == ["another"]


async def test_what_is_held_back_is_looked_at_again_when_it_begins(target: Target, tmp_path: Path) -> None:
    async with open_office(target, tmp_path / "data", HOLD_BACK_SECONDS="3600") as office:
        held = (await office.ask("mail", action=SEND, key=office.owner)).expect(202)
        await office.policy('@id("nothing") forbid (principal, action, resource);')
        await due(office, held["attempt_id"])
        ended = await office.ended(held["attempt_id"])
        assert (ended["status"], ended["error"]["code"]) == ("denied", "denied")
        assert office.deeds.done == []


async def test_what_is_due_while_nothing_can_be_counted_waits_for_that(
    target: Target, tmp_path: Path, redis_server: RedisServer
) -> None:
    settings = {"HOLD_BACK_SECONDS": "3600", "RATE_LIMIT_ACTIONS": "webhook.save=100/60"}
    async with (
        open_sink() as sink,
        open_office(target, tmp_path / "data", REDIS_URL=redis_server.url, **settings, **sink.allowed) as office,
    ):
        held = (await office.gateway.post("/actions/execute", sink.webhook(), key=office.owner)).expect(202)
        redis_server.kill()
        await due(office, held["attempt_id"])
        async with asyncio.timeout(PATIENCE):
            while (seen := await office.attempt(held["attempt_id"]))["held_until"] is None:
                await asyncio.sleep(0.05)
        assert (seen["status"], sink.requests) == ("running", [])
        redis_server.start()
        assert (await office.ended(held["attempt_id"]))["status"] == "succeeded"
        assert len(sink.requests) == 1
