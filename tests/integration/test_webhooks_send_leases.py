"""Leases of deliveries: what happens when a sender dies, freezes, or is not the only one."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from relay.core.clock import MICROSECONDS, now
from relay.store.tables.webhooks_out import webhook_attempts, webhook_deliveries
from relay.store.target import Target
from relay.webhooks.journal import Attempted, Claim, Journal
from relay.webhooks.schedule import Schedule
from tests.gateway import Gateway
from tests.receivers import OK, never, open_receiver
from tests.sending_kit import QUICK, act, back_date, deliveries, endpoint, sending, settled

IDLE = replace(Schedule(), sweep=3600 * MICROSECONDS)
PUBLIC = "https://hooks.example.invalid/"


def journal_of(gateway: Gateway) -> Journal:
    house = gateway.house
    return Journal(house.database, house.envelopes, house.outbox, QUICK)


async def claimed(gateway: Gateway, journal: Journal) -> tuple[str, Claim]:
    """Return an endpoint and the claim of its only delivery, which the gateway's own sender knows nothing of."""
    made = await endpoint(gateway, PUBLIC, "action.succeeded")
    gateway.house.outbox.listen(lambda _: None)
    await act(gateway)
    claim = await journal.next(made["id"])
    assert claim is not None
    return made["id"], claim


def came_to(claim: Claim, code: int) -> Attempted:
    error = None if code < 300 else (f"status_{code}", "said no")
    return Attempted(claim, now(), 1, status_code=code, error=error)


async def test_what_is_leased_is_nobody_else_s_until_the_lease_ends(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        journal = journal_of(gateway)
        endpoint_id, first = await claimed(gateway, journal)
        assert await journal.next(endpoint_id) is None
        past = now() - 1
        await back_date(gateway, update(webhook_deliveries).values(due_at=past, lease_until=past))
        second = await journal.next(endpoint_id)
        assert second is not None and second.delivery.id == first.delivery.id and second.body == first.body


async def test_whoever_wakes_up_late_changes_nothing(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        journal = journal_of(gateway)
        endpoint_id, first = await claimed(gateway, journal)
        past = now() - 1
        await back_date(gateway, update(webhook_deliveries).values(due_at=past, lease_until=past))
        second = await journal.next(endpoint_id)
        assert second is not None
        await journal.finish(came_to(first, 500))
        (row,) = await deliveries(gateway)
        assert (row["status"], row["attempts"]) == ("pending", 0)
        await journal.finish(came_to(second, 200))
        await journal.finish(came_to(first, 500))
        (row,) = await deliveries(gateway)
        assert (row["status"], row["attempts"], row["status_code"]) == ("succeeded", 1, 200)
        assert len(await gateway.house.database.reader.all(select(webhook_attempts))) == 1


async def test_an_outcome_is_written_once(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        journal = journal_of(gateway)
        _, claim = await claimed(gateway, journal)
        await asyncio.gather(*(journal.finish(came_to(claim, 500)) for _ in range(3)))
        (row,) = await deliveries(gateway)
        assert (row["status"], row["attempts"]) == ("pending", 1)


async def test_a_success_counts_even_when_the_endpoint_was_disabled_meanwhile(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        journal = journal_of(gateway)
        endpoint_id, claim = await claimed(gateway, journal)
        path = f"/webhooks/endpoints/{endpoint_id}"
        (await gateway.call("PATCH", path, json={"enabled": False}, key=gateway.admin)).expect(200)
        await journal.finish(came_to(claim, 200))
        (row,) = await deliveries(gateway)
        assert row["status"] == "succeeded"


async def test_a_failure_after_the_endpoint_was_disabled_revives_nothing(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        journal = journal_of(gateway)
        endpoint_id, claim = await claimed(gateway, journal)
        path = f"/webhooks/endpoints/{endpoint_id}"
        (await gateway.call("PATCH", path, json={"enabled": False}, key=gateway.admin)).expect(200)
        await journal.finish(came_to(claim, 500))
        (row,) = await deliveries(gateway)
        assert row["status"] == "dead"


async def test_two_processes_deliver_each_message_once_and_share_the_places(
    postgres_target: Target, tmp_path: Path
) -> None:
    slow = asyncio.Event()

    async with (
        open_receiver(lambda _: OK if slow.is_set() else None) as receiver,
        sending(postgres_target, tmp_path) as one,
        sending(postgres_target, tmp_path, admin=one.admin) as other,
    ):
        await endpoint(one, receiver.url, "action.succeeded")
        await asyncio.sleep(1.2)  # what replicas may be late
        await asyncio.gather(*(act(gateway, str(number)) for number in range(20) for gateway in (one, other)))
        await receiver.arrived(4)
        await asyncio.sleep(0.5)  # time for a fifth, were there one
        assert receiver.under_way == 4
        slow.set()
        receiver.hang_up()
        await settled(one, 40, "succeeded", seconds=60)
        ids = receiver.ids[4:]
        assert len(ids) == len(set(ids)) == 40


async def test_a_shutdown_waits_for_what_is_under_way_and_begins_nothing_more(target: Target, tmp_path: Path) -> None:
    async with open_receiver(never) as receiver:
        async with sending(target, tmp_path) as gateway:
            await endpoint(gateway, receiver.url, "action.succeeded")
            for number in range(8):
                await act(gateway, str(number))
            await receiver.arrived(4)
        assert len(receiver.received) == 4
        receiver.reply = _ok
        async with sending(target, tmp_path, admin=gateway.admin) as gateway:
            past = now() - 1
            lapsed = webhook_deliveries.c.lease_until.is_not(None)
            await back_date(gateway, update(webhook_deliveries).where(lapsed).values(due_at=past, lease_until=past))
            await settled(gateway, 8, "succeeded")


def _ok(_: Any) -> Any:
    return OK
