"""The delivery log: filters, pages, replays, retention."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from relay.core.clock import DAY, HOUR, iso, now, parse_iso
from relay.store.retention import Purge
from relay.store.tables import envelopes
from relay.store.tables.webhooks_out import webhook_attempts, webhook_deliveries, webhook_messages
from relay.store.target import Target
from relay.webhooks.schedule import Schedule
from tests.gateway import Gateway
from tests.process import eventually
from tests.receivers import OK, never, open_receiver, status
from tests.sending_kit import NEVER_AGAIN, QUICK, act, back_date, deliveries, delivery, endpoint, sending, settled

HOURS = replace(QUICK, retries=(HOUR,) * 7)
LONG_AGO = "2020-01-01T00:00:00Z"


async def test_filters_and_pages(target: Target, tmp_path: Path) -> None:
    async with (
        open_receiver() as good,
        open_receiver(status(500)) as bad,
        sending(target, tmp_path, NEVER_AGAIN) as gateway,
    ):
        first = await endpoint(gateway, good.url, "action.succeeded", "key.created")
        second = await endpoint(gateway, bad.url, "action.succeeded")
        for _ in range(3):
            await act(gateway)
        (await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin)).expect(201)
        await settled(gateway, 4, "succeeded")
        await settled(gateway, 3, "dead")
        everything = await deliveries(gateway)
        assert len(everything) == 7 and [row["id"] for row in everything] == sorted(
            (row["id"] for row in everything), reverse=True
        )
        for query, wanted in (
            (f"&endpoint={first['id']}", {"endpoint_id": first["id"]}),
            (f"&endpoint={second['id']}&status=dead", {"endpoint_id": second["id"], "status": "dead"}),
            ("&type=key.created", {"type": "key.created"}),
        ):
            found = await deliveries(gateway, query)
            assert [row["id"] for row in found] == [row["id"] for row in everything if wanted.items() <= row.items()]
            assert found
        middle = everything[3]["created_at"]
        assert {row["id"] for row in await deliveries(gateway, f"&since={middle}")} == {
            row["id"] for row in everything if row["created_at"] >= middle
        }
        walked, cursor = [], ""
        while cursor is not None:
            page = await gateway.get(f"/webhooks/deliveries?limit=3{cursor and '&cursor=' + cursor}", key=gateway.admin)
            walked += page.expect(200)["items"]
            cursor = page.json["next_cursor"]
        assert walked == everything
        for query in ("cursor=x", "status=lost", "since=yesterday", "limit=0", "endpoint=end_1", "other=1"):
            (await gateway.get(f"/webhooks/deliveries?{query}", key=gateway.admin)).expect(422)


async def test_a_replay_has_the_same_message_id_and_a_row_of_its_own(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, NEVER_AGAIN) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (dead,) = await settled(gateway, 1, "dead")
        receiver.reply = lambda _: OK
        again = (await gateway.post(f"/webhooks/deliveries/{dead['id']}/replay", key=gateway.admin)).expect(202)
        assert again["replay_of"] == dead["id"] and again["id"] != dead["id"]
        first, second = await receiver.arrived(2)
        assert first.id == second.id == dead["message_id"] and first.body == second.body
        (done,) = await settled(gateway, 1, "succeeded")
        assert done["id"] == again["id"] and (await delivery(gateway, dead["id"]))["status"] == "dead"
        (event,) = await gateway.events("webhooks:delivery:replayed")
        assert event["target"] == dead["id"]


async def test_twin_replays_are_one(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, NEVER_AGAIN) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (dead,) = await settled(gateway, 1, "dead")
        receiver.reply = never
        path = f"/webhooks/deliveries/{dead['id']}/replay"
        twins = await asyncio.gather(*(gateway.post(path, key=gateway.admin) for _ in range(4)))
        assert sorted(answer.status for answer in twins) == [202, 409, 409, 409]


async def test_all_that_failed_since_a_time_goes_out_again_once(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, NEVER_AGAIN) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        for _ in range(4):
            await act(gateway)
        dead = await settled(gateway, 4, "dead")
        old = min(dead, key=lambda row: row["id"])
        await back_date(
            gateway,
            update(webhook_deliveries).where(webhook_deliveries.c.id == old["id"]).values(created_at=now() - DAY),
        )
        receiver.reply = lambda _: OK
        path, body = f"/webhooks/endpoints/{made['id']}/replay", {"since": iso(now() - DAY // 2)}
        twins = await asyncio.gather(*(gateway.post(path, body, key=gateway.admin) for _ in range(2)))
        assert sorted(answer.expect(202)["replayed"] for answer in twins) == [0, 3]
        done = await settled(gateway, 3, "succeeded")
        assert {row["replay_of"] for row in done} == {row["id"] for row in dead} - {old["id"]}
        assert (await gateway.post(path, {"since": LONG_AGO}, key=gateway.admin)).expect(202)["replayed"] == 1
        await settled(gateway, 4, "succeeded")
        assert (await gateway.post(path, {"since": LONG_AGO}, key=gateway.admin)).expect(202)["replayed"] == 0


async def test_what_is_on_its_way_is_not_sent_twice(target: Target, tmp_path: Path) -> None:
    async with open_receiver(never) as receiver, sending(target, tmp_path) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        await receiver.arrived()
        (row,) = await deliveries(gateway)
        (await gateway.post(f"/webhooks/deliveries/{row['id']}/replay", key=gateway.admin)).expect(409)


async def test_a_delivery_that_waits_for_its_next_attempt_makes_it_when_it_is_replayed(
    target: Target, tmp_path: Path
) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, HOURS) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (waiting,) = await failed_once(gateway, 1)
        receiver.reply = lambda _: OK
        again = (await gateway.post(f"/webhooks/deliveries/{waiting['id']}/replay", key=gateway.admin)).expect(202)
        assert again["id"] == waiting["id"] and again["next_attempt_at"] < waiting["next_attempt_at"]
        first, second = await receiver.arrived(2)
        assert first.id == second.id == waiting["message_id"] and first.body == second.body
        (done,) = await settled(gateway, 1, "succeeded")
        assert (done["id"], done["attempts"], done["replay_of"]) == (waiting["id"], 2, None)
        assert await deliveries(gateway) == [done]
        (event,) = await gateway.events("webhooks:delivery:replayed")
        assert event["target"] == waiting["id"]
        assert (await gateway.get(f"/webhooks/endpoints/{made['id']}", key=gateway.admin)).json["failures"] == 0


@pytest.mark.parametrize("base", [HOURS, QUICK], ids=["not due", "due"])
@pytest.mark.parametrize("everything", [False, True])
async def test_a_replay_does_not_wait_for_the_end_of_a_pause(
    target: Target, tmp_path: Path, everything: bool, base: Schedule
) -> None:
    schedule = replace(base, breaker=1, pause=HOUR, longest_pause=HOUR)
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, schedule) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (waiting,) = await failed_once(gateway, 1)
        async with asyncio.timeout(30):
            while base is QUICK and parse_iso(waiting["next_attempt_at"]) > now():
                await asyncio.sleep(0.01)
        path = f"/webhooks/endpoints/{made['id']}"
        assert (await gateway.get(path, key=gateway.admin)).json["paused_until"] is not None
        receiver.reply = lambda _: OK
        if everything:
            answer = await gateway.post(f"{path}/replay", {"since": LONG_AGO}, key=gateway.admin)
            assert answer.expect(202) == {"replayed": 1, "more": False}
        else:
            (await gateway.post(f"/webhooks/deliveries/{waiting['id']}/replay", key=gateway.admin)).expect(202)
        await settled(gateway, 1, "succeeded")


async def test_all_that_waits_to_be_tried_again_goes_out_with_the_dead_letters(target: Target, tmp_path: Path) -> None:
    schedule = replace(HOURS, retries=(HOUR,))
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, schedule) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        path, everything = f"/webhooks/endpoints/{made['id']}/replay", {"since": LONG_AGO}
        for _ in range(3):
            await act(gateway)
        waiting = await failed_once(gateway, 3)
        old, *young = sorted(waiting, key=lambda row: row["id"])
        await back_date(
            gateway,
            update(webhook_deliveries).where(webhook_deliveries.c.id == old["id"]).values(created_at=now() - DAY),
        )
        recently = {"since": iso(now() - DAY // 2)}
        assert (await gateway.post(path, recently, key=gateway.admin)).expect(202)["replayed"] == 2
        assert {row["id"] for row in await settled(gateway, 2, "dead")} == {row["id"] for row in young}
        receiver.reply = lambda _: OK
        assert (await gateway.post(path, everything, key=gateway.admin)).expect(202)["replayed"] == 3
        done = await settled(gateway, 3, "succeeded")
        assert {row["replay_of"] for row in done} == {None, *(row["id"] for row in young)}
        assert (await gateway.post(path, everything, key=gateway.admin)).expect(202)["replayed"] == 0
        assert len(await gateway.events("webhooks:endpoint:replayed")) == 3


async def test_a_retry_that_is_under_way_is_not_made_twice(target: Target, tmp_path: Path) -> None:
    async with open_receiver(lambda _: (500, {}, b"")) as receiver, sending(target, tmp_path, HOURS) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (waiting,) = await failed_once(gateway, 1)
        receiver.reply = never
        path = f"/webhooks/deliveries/{waiting['id']}/replay"
        (await gateway.post(path, key=gateway.admin)).expect(202)
        await receiver.arrived(2)
        (await gateway.post(path, key=gateway.admin)).expect(409)
        answer = await gateway.post(f"/webhooks/endpoints/{made['id']}/replay", {"since": LONG_AGO}, key=gateway.admin)
        assert answer.expect(202)["replayed"] == 0
        assert len(receiver.received) == 2


async def failed_once(gateway: Gateway, number: int) -> list[dict[str, Any]]:
    """Return the deliveries once that many have failed once and wait to be tried again."""

    async def look() -> Any:
        found = [row for row in await deliveries(gateway, "&status=pending") if row["attempts"] == 1]
        return found if len(found) == number else None

    found: list[dict[str, Any]] = await eventually(look, 30)
    return found


async def test_after_its_retention_a_message_is_gone(target: Target, tmp_path: Path) -> None:
    async with (
        open_receiver(lambda _: (500, {}, b"said")) as receiver,
        sending(target, tmp_path, NEVER_AGAIN) as gateway,
    ):
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (row,) = await settled(gateway, 1, "dead")
        purge = Purge(gateway.house.database.writer)
        await purge.once(now() + 29 * DAY)
        assert (await delivery(gateway, row["id"]))["tries"][0]["answer"] == "said"
        await back_date(gateway, update(envelopes).where(envelopes.c.purpose == "webhook-message").values(expires_at=1))
        await purge.once(now())
        assert (await delivery(gateway, row["id"]))["body"] is None
        (await gateway.post(f"/webhooks/deliveries/{row['id']}/replay", key=gateway.admin)).expect(410)
        await purge.once(now() + 31 * DAY)
        await delivery(gateway, row["id"], 404)
        for table in (webhook_deliveries, webhook_attempts, webhook_messages):
            assert await gateway.house.database.reader.all(select(table)) == []
        kept = select(envelopes).where(envelopes.c.purpose.in_(["webhook-message", "webhook-answer"]))
        assert await gateway.house.database.reader.all(kept) == []


async def test_a_message_that_is_erased_before_it_arrives_is_a_dead_letter(target: Target, tmp_path: Path) -> None:
    schedule = replace(QUICK, retries=(1_000_000,))
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, schedule) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        await receiver.arrived()
        await back_date(gateway, update(envelopes).where(envelopes.c.purpose == "webhook-message").values(expires_at=1))
        await Purge(gateway.house.database.writer).once(now())
        (row,) = await settled(gateway, 1, "dead")
        assert row["error"] == "event_erased" and len(receiver.received) == 1
