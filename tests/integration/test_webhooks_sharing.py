"""What senders share: places between workspaces and endpoints, and rows between processes on one PostgreSQL."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

import relay.engine
from relay.audit.record import event
from relay.core.clock import MICROSECONDS
from relay.store.target import Target
from relay.store.writer import Tx
from relay.webhooks import deliver, endpoints, receivers
from relay.webhooks.deliver import LeaseOver, Sender
from relay.webhooks.outbox import message
from relay.webhooks.types import BY_NAME
from tests.gateway import Gateway
from tests.process import eventually
from tests.receivers import OK, never, open_receiver
from tests.sending_kit import MILLISECOND, QUICK, act, deliveries, endpoint, sending, settled

PATIENT = replace(QUICK, timeout=60 * MICROSECONDS, lease=90 * MICROSECONDS)
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
PUBLIC = "https://hooks.example.invalid/"


@asynccontextmanager
async def two(target: Target, tmp_path: Path, **more: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways on one database."""
    async with sending(target, tmp_path, **more) as one, sending(target, tmp_path, admin=one.admin, **more) as other:
        yield one, other


async def test_fifty_endpoints_that_hang_delay_no_other_workspace(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay.engine, "Sender", partial(Sender, places=16, places_for_suspects=4))
    async with open_receiver(never) as slow, open_receiver() as good, sending(target, tmp_path, PATIENT) as gateway:
        evil = await gateway.key("webhooks:manage", "actions:execute", workspace="evil")
        for _ in range(50):
            await endpoint(gateway, slow.url, "action.succeeded", key=evil)
        await endpoint(gateway, good.url, "action.succeeded")
        await act(gateway, key=evil)
        await slow.arrived(8)
        await act(gateway)
        await good.arrived(1)
        assert slow.most == 8, "one workspace has more than half of the places"
        slow.reply = lambda _: OK
        slow.hang_up()


async def test_an_endpoint_that_answers_slowly_makes_room_for_the_others(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay.engine, "Sender", partial(Sender, places=4, places_for_suspects=4, slow_seconds=0.0))
    async with open_receiver() as slow, sending(sqlite_target, tmp_path, PATIENT) as gateway:
        await endpoint(gateway, slow.url, "action.succeeded")
        await act(gateway)
        await settled(gateway, 1, "succeeded")
        slow.reply = never
        for number in range(4):
            await act(gateway, str(number))
        await slow.arrived(3)
        async with open_receiver() as good:
            await endpoint(gateway, good.url, "key.created")
            (await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin)).expect(201)
            await good.arrived(1)
            assert slow.under_way == 2
        slow.reply = lambda _: OK
        slow.hang_up()


async def test_a_lease_that_ended_before_anything_left_is_given_back(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = iter([True])

    def ensure_live(_: Any) -> None:
        if next(late, False):
            raise LeaseOver

    monkeypatch.setattr(deliver._Lease, "ensure_live", ensure_live)
    async with open_receiver() as receiver, sending(target, tmp_path, PATIENT) as gateway:
        await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (row,) = await settled(gateway, 1, "succeeded")
        assert row["attempts"] == 1 and next(late, None) is None


@pytest.mark.parametrize("status", ["deleted", "disabled"])
async def test_what_comes_for_an_endpoint_that_is_gone_is_a_dead_letter(
    target: Target, tmp_path: Path, status: str
) -> None:
    async with sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, PUBLIC, "key.created")
        path = f"/webhooks/endpoints/{made['id']}"
        if status == "deleted":
            (await gateway.call("DELETE", path, key=gateway.admin)).expect(200)
        else:
            (await gateway.call("PATCH", path, json={"enabled": False}, key=gateway.admin)).expect(200)

        def unit(tx: Tx) -> None:
            draft = event("identity:key:created", workspace_id="default", target="key_" + "0" * 32)
            gateway.house.outbox.put(tx, [message(BY_NAME["key.created"], draft, (made["id"],))])

        await gateway.house.database.writer.run(unit)
        (row,) = await settled(gateway, 1, "dead")
        assert row["error"] == f"endpoint_{status}"


async def test_an_endpoint_of_another_process_misses_nothing_from_its_201_on(
    postgres_target: Target, tmp_path: Path
) -> None:
    async with two(postgres_target, tmp_path) as (one, other):
        await endpoint(one, PUBLIC, "key.created")
        await act(other)  # what the other process knows by now
        for _ in range(4):
            made = await endpoint(one, PUBLIC, "action.succeeded")
            await act(other)
            query = f"&endpoint={made['id']}"
            assert len(await deliveries(one, query)) == 1
            (await one.call("DELETE", f"/webhooks/endpoints/{made['id']}", key=one.admin)).expect(200)
            await act(other)
            assert len(await deliveries(one, query)) == 1


@pytest.mark.parametrize("kind", ["endpoints", "receivers"])
async def test_two_processes_make_no_more_than_there_may_be(
    postgres_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(endpoints, "MAX_ENDPOINTS", 1)
    monkeypatch.setattr(receivers, "MAX_RECEIVERS", 1)
    body = {"endpoints": {"url": PUBLIC, "events": ["*"]}, "receivers": {"scheme": "standard"}}[kind]
    async with two(postgres_target, tmp_path) as both:
        with (
            psycopg.connect(postgres_target.conninfo) as held,
            psycopg.connect(postgres_target.conninfo, autocommit=True) as looking,
        ):
            held.execute("SELECT 1 FROM audit_head FOR UPDATE")
            asked = [asyncio.create_task(gw.post(f"/webhooks/{kind}", body, key=gw.admin)) for gw in both]

            async def waiting() -> bool:
                found = looking.execute(_WAITING).fetchone()
                return found is not None and found[0] == 2

            await eventually(waiting, 3.5)
            held.rollback()
            assert sorted(answer.status for answer in await asyncio.gather(*asked)) == [201, 409]


async def test_processes_that_send_and_switch_never_wait_for_one_another_in_a_circle(
    postgres_target: Target, tmp_path: Path
) -> None:
    schedule = replace(QUICK, sweep=50 * MILLISECOND, breaker=1_000_000)
    dice = random.Random(7)

    async with (
        open_receiver(lambda _: (500 if dice.random() < 0.5 else 200, {}, b"")) as receiver,
        two(postgres_target, tmp_path, schedule=schedule) as both,
    ):
        made = [(await endpoint(both[0], receiver.url, "action.succeeded"))["id"] for _ in range(16)]

        async def acts(gateway: Gateway) -> None:
            for number in range(10):
                await act(gateway, str(number))

        async def switch() -> None:
            for _ in range(5):
                path = f"/webhooks/endpoints/{dice.choice(made)}"
                for enabled in (False, True):
                    gateway = dice.choice(both)
                    (await gateway.call("PATCH", path, json={"enabled": enabled}, key=gateway.admin)).expect(200)

        await asyncio.gather(*(acts(gateway) for gateway in both), *(switch() for _ in range(4)))

        async def over() -> bool:
            return not await deliveries(both[0], "&status=pending")

        await eventually(over, 60)
    with psycopg.connect(postgres_target.conninfo, autocommit=True) as looking:
        found = looking.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
        # Waiting for endpoints makes six and more of them. A single one, whatever else met, PostgreSQL ends, and the
        # writer runs its unit again.
        assert found is not None and found[0] <= 1
