"""What tests of outgoing webhooks stand on: a quick schedule, endpoints, and events to send."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.core.clock import MICROSECONDS
from relay.store.query import Query
from relay.store.target import Target
from relay.webhooks.schedule import Schedule
from tests.gateway import Gateway, open_gateway
from tests.process import eventually

MILLISECOND = MICROSECONDS // 1000
QUICK = Schedule(
    retries=(20 * MILLISECOND,) * 7,
    jitter=0.0,
    breaker=1_000,
    pause=20 * MILLISECOND,
    longest_pause=100 * MILLISECOND,
    sweep=20 * MILLISECOND,
)
NEVER_AGAIN = replace(QUICK, retries=())
LOOPBACK = {"EGRESS_ALLOW": "127.0.0.1"}


@asynccontextmanager
async def sending(
    target: Target, tmp_path: Path, schedule: Schedule = QUICK, *, admin: str = "", **settings: str
) -> AsyncIterator[Gateway]:
    """Serve a gateway that may deliver to loopback."""
    async with open_gateway(
        target, tmp_path / "data", schedule=schedule, admin=admin, **{**LOOPBACK, **settings}
    ) as gateway:
        yield gateway


async def endpoint(gateway: Gateway, url: str, *events: str, key: str | None = None, **more: Any) -> dict[str, Any]:
    """Make an endpoint and return it with its secret."""
    wanted = {"url": url, "events": list(events or ("*",)), **more}
    made: dict[str, Any] = (await gateway.post("/webhooks/endpoints", wanted, key=key or gateway.admin)).expect(201)
    return made


async def act(gateway: Gateway, message: str = "hello", key: str | None = None) -> str:
    """Have an action succeed and return its attempt's id."""
    wanted = {"action": "relay.echo", "params": {"message": message}}
    attempt: str = (await gateway.post("/actions/execute", wanted, key=key or gateway.admin)).expect(200)["attempt_id"]
    return attempt


async def deliveries(gateway: Gateway, query: str = "", key: str | None = None) -> list[dict[str, Any]]:
    """Return the newest page of the log."""
    answer = await gateway.get(f"/webhooks/deliveries?limit=200{query}", key=key or gateway.admin)
    items: list[dict[str, Any]] = answer.expect(200)["items"]
    return items


async def settled(gateway: Gateway, number: int, status: str, *, seconds: float = 30.0) -> list[dict[str, Any]]:
    """Return the deliveries once that many have a status."""

    async def look() -> Any:
        found = await deliveries(gateway, f"&status={status}")
        return found if len(found) >= number else None

    found: list[dict[str, Any]] = await eventually(look, seconds)
    return found


async def delivery(gateway: Gateway, delivery_id: str, status: int = 200) -> Any:
    """Return one delivery with its attempts."""
    return (await gateway.get(f"/webhooks/deliveries/{delivery_id}", key=gateway.admin)).expect(status)


async def back_date(gateway: Gateway, statement: Any) -> None:
    """Change rows as if time had passed: run one statement in a transaction."""
    query = Query(statement)
    await gateway.house.database.writer.run(lambda tx: tx.run(query))
