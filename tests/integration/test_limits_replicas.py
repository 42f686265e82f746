"""Limits shared over Redis: two servers, one count; and what both do while Redis is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.store.target import Target
from tests.gateway import Gateway, open_gateway
from tests.limits_kit import patience
from tests.redis_server import RedisServer

ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
LIMITS = {"RATE_LIMIT_EXECUTE_PER_MINUTE": "30", "RATE_LIMIT_GLOBAL_PER_MINUTE": "300"}


@asynccontextmanager
async def replicas(target: Target, folder: Path, url: str, **more: str) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two servers of one installation on PostgreSQL and one Redis."""
    given = {"REDIS_URL": url, **LIMITS, **more}
    async with (
        open_gateway(target, folder / "data", **given) as one,
        open_gateway(target, folder / "data", admin=one.admin, **given) as two,
    ):
        yield one, two


async def executed(gateway: Gateway) -> int:
    return (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).status


async def ready(gateway: Gateway, expected: str) -> None:
    async with asyncio.timeout(10):
        while (await gateway.get("/ready")).json["checks"]["limits"] != expected:
            await asyncio.sleep(0.05)


async def test_two_servers_on_one_redis_share_every_count(
    postgres_target: Target, tmp_path: Path, redis_url: str
) -> None:
    async with replicas(postgres_target, tmp_path, redis_url) as (one, two):
        with patience():
            found = await asyncio.gather(*(executed(gateway) for _ in range(25) for gateway in (one, two)))
            report = (await two.get("/version")).headers["RateLimit"]
        assert sorted(found) == [200] * 30 + [429] * 20
        assert report.startswith('"global-ip";r=249;')


@pytest.mark.parametrize("how", ["freeze", "kill"])
async def test_while_redis_is_away_changes_wait_and_reads_have_a_tenth(
    how: str, postgres_target: Target, tmp_path: Path, redis_server: RedisServer
) -> None:
    async with replicas(postgres_target, tmp_path, redis_server.url) as (one, two):
        assert await executed(one) == await executed(two) == 200
        getattr(redis_server, how)()
        began = time.monotonic()
        refused = await one.post("/actions/execute", ECHO, key=one.admin)
        assert time.monotonic() - began < 3
        problem = refused.expect(503)
        assert problem["type"].endswith(":unavailable") and int(refused.headers["Retry-After"]) >= 1
        await ready(one, "failed")
        await ready(two, "failed")  # without a request of its own
        attempts = len(await one.events("gate:action:outcome"))
        assert [await executed(one) for _ in range(5)] == [503] * 5
        assert len(await one.events("gate:action:outcome")) == attempts

        reads = [await one.get("/audit?limit=1", key=one.admin) for _ in range(40)]
        statuses = [answer.status for answer in reads]
        assert statuses == sorted(statuses) and 20 < statuses.count(200) < 30
        assert reads[0].headers["RateLimit-Policy"] == '"global-ip";q=30;w=60'
        assert [(await one.get("/health")).status for _ in range(5)] == [200] * 5
        state = one.server.limits.state
        assert state.losses == 1 and state.refused_blind == 6 and state.counted_locally > 40
        assert state.unanswered == state.refused_blind + state.counted_locally

        redis_server.thaw() if how == "freeze" else redis_server.start()
        async with asyncio.timeout(10):
            while await executed(one) != 200:
                await asyncio.sleep(0.05)
        await ready(one, "ok")
        await ready(two, "ok")
        assert (await one.get("/audit?limit=1", key=one.admin)).status == 200
        events = await one.events("limits:backend:lost") + await one.events("limits:backend:recovered")
        # Each of the two servers has noticed both, once.
        assert sorted(event["tag"].rpartition(":")[2] for event in events) == ["lost"] * 2 + ["recovered"] * 2
        assert {event["workspace_id"] for event in events} == {""}


async def test_a_server_starts_without_redis_and_takes_it_up_when_it_comes(
    sqlite_target: Target, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.kill()
    async with open_gateway(sqlite_target, tmp_path / "data", REDIS_URL=redis_server.url, **LIMITS) as gateway:
        assert await executed(gateway) == 503
        assert (await gateway.get("/version")).status == 200
        redis_server.start()
        await ready(gateway, "ok")
        assert await executed(gateway) == 200


async def test_an_observer_passes_while_redis_is_away(
    sqlite_target: Target, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.kill()
    async with open_gateway(
        sqlite_target, tmp_path / "data", REDIS_URL=redis_server.url, RATE_LIMIT_MODE="observe", **LIMITS
    ) as gateway:
        assert await executed(gateway) == 200
        assert [(await gateway.get("/version")).status for _ in range(40)] == [200] * 40


async def test_without_redis_readiness_says_nothing_of_it(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        assert set((await gateway.get("/ready")).json["checks"]) == {"database", "writer"}
