"""A gateway that is killed with SIGKILL while it delivers: nothing that was acknowledged is lost, ids stay the same."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.process import Client, GatewayProcess, eventually
from tests.receivers import OK, Receiver, never, open_receiver, status

HEALTHY, HANGING, FAILING = 8, 2, 2
EVENTS = 120
AT_ONCE = 6


@asynccontextmanager
async def receivers() -> AsyncIterator[list[Receiver]]:
    """Serve healthy receivers first, then those that hang, then those that fail."""
    async with AsyncExitStack() as stack:
        replies = [lambda _: OK] * HEALTHY + [never] * HANGING + [status(500)] * FAILING
        yield [await stack.enter_async_context(open_receiver(reply)) for reply in replies]


async def make_events(client: Client, numbers: Any, acknowledged: dict[int, str]) -> None:
    """Have actions succeed until the numbers or the gateway end; what was answered is remembered."""
    for number in numbers:
        body = {"action": "relay.echo", "params": {"message": str(number)}}
        try:
            answer = await client.post("/actions/execute", body, **{"Idempotency-Key": f"event-{number}"})
        except (aiohttp.ClientError, ConnectionError):
            return
        assert answer.status == 200, answer.body
        acknowledged[number] = answer.body["attempt_id"]


def arrivals(receiver: Receiver) -> dict[str, set[str]]:
    """Return the message ids under which each attempt was told of."""
    found = defaultdict(set)
    for one in receiver.received:
        found[one.event["data"]["attempt_id"]].add(one.id)
    return found


async def test_nothing_is_lost_and_bad_receivers_delay_no_other(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, env={"EGRESS_ALLOW": "127.0.0.1"})
    acknowledged: dict[int, str] = {}
    async with receivers() as served:
        await gateway.start()
        try:
            key = gateway.first_key
            assert key is not None
            async with Client(gateway, key) as client:
                for receiver in served:
                    body = {"url": receiver.url, "events": ["action.succeeded"]}
                    assert (await client.post("/webhooks/endpoints", body)).status == 201
                numbers = iter(range(EVENTS))
                load = [asyncio.create_task(make_events(client, numbers, acknowledged)) for _ in range(AT_ONCE)]
                async with asyncio.timeout(60):
                    while len(acknowledged) < EVENTS // 3:
                        await asyncio.sleep(0.005)
                gateway.kill()
                await asyncio.gather(*load)
            assert 0 < len(acknowledged) < EVENTS, "the kill came too late, or too early, to say anything"
            await gateway.start()
            async with Client(gateway, key) as client:
                left = [number for number in range(EVENTS) if number not in acknowledged]
                await make_events(client, left, acknowledged)
                wanted = set(acknowledged.values())
                assert len(wanted) == EVENTS

                async def all_there() -> bool:
                    return all(wanted <= arrivals(receiver).keys() for receiver in served[:HEALTHY])

                await eventually(all_there, 60)
                ids: defaultdict[str, set[str]] = defaultdict(set)
                for receiver in served:
                    for attempt, seen in arrivals(receiver).items():
                        ids[attempt] |= seen
                assert ids.keys() == wanted, "something was told of that nobody had been promised"
                assert all(len(seen) == 1 for seen in ids.values()), "a message changed its id"
                await everything_is_on_record(client, len(served), wanted)
        finally:
            gateway.kill()


async def everything_is_on_record(client: Client, endpoints: int, attempts: set[str]) -> None:
    """Each endpoint has one delivery of each event: made, or still to be made."""
    rows, cursor = [], ""
    while cursor is not None:
        page = await client.get(f"/webhooks/deliveries?limit=200{cursor and '&cursor=' + cursor}")
        assert page.status == 200, page.body
        rows += page.body["items"]
        cursor = page.body["next_cursor"]
    assert len(rows) == endpoints * len(attempts) == len({(row["endpoint_id"], row["message_id"]) for row in rows})
    assert {row["status"] for row in rows} <= {"succeeded", "pending"}


async def test_a_delivery_that_was_cut_off_is_made_again_at_once(tmp_path: Path) -> None:
    """On SQLite nobody else can be sending: the next process takes over without waiting for the lease."""
    gateway = GatewayProcess(tmp_path, env={"EGRESS_ALLOW": "127.0.0.1"})
    async with open_receiver(never) as receiver:
        await gateway.start()
        try:
            key = gateway.first_key
            assert key is not None
            async with Client(gateway, key) as client:
                body = {"url": receiver.url, "events": ["action.succeeded"]}
                assert (await client.post("/webhooks/endpoints", body)).status == 201
                await make_events(client, [1], {})
                await receiver.arrived()
            gateway.kill()
            receiver.reply = lambda _: OK
            await gateway.start()
            first, second = await receiver.arrived(2, seconds=20)
            assert first.id == second.id and first.body == second.body
            assert json.loads(second.body)["type"] == "action.succeeded"
        finally:
            gateway.kill()
