"""Trying credentials: twenty in five minutes, then longer and longer waits, which no valid key ever pays for."""

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import relay.limits.service
from relay.limits.memory import MemoryCounters
from relay.store.target import Target
from tests.gateway import Answer, Gateway, open_gateway
from tests.limits_kit import Clock, patience

WRONG = "relay_sk_test_" + "0" * 43
SETTINGS = {"RATE_LIMIT_CREDENTIALS_PER_5_MINUTES": "20"}


@pytest.fixture
def clock() -> Iterator[Clock]:
    found = Clock()
    with mock.patch.object(relay.limits.service, "MemoryCounters", functools.partial(MemoryCounters, clock=found)):
        yield found


async def tried(gateway: Gateway, number: int = 1) -> list[Answer]:
    return [await gateway.get("/audit", key=WRONG) for _ in range(number)]


async def test_the_wait_doubles_and_a_valid_key_is_never_refused(
    clock: Clock, sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", **SETTINGS) as gateway:
        waits = []
        for _ in range(4):
            assert [answer.status for answer in await tried(gateway, 20)] == [401] * 20
            (refused,) = await tried(gateway)
            problem = refused.expect(429)
            assert problem["violated-policies"] == ["credentials-ip"] and "rate limit" in problem["detail"]
            waits.append(int(refused.headers["Retry-After"]))
            assert (await gateway.get("/audit", key=gateway.admin)).status == 200
            clock.move(waits[-1] - 0.5)
            assert (await tried(gateway))[0].status == 429
            clock.move(0.5)
        assert waits == [300, 600, 900, 900]


async def test_no_credential_is_not_a_failed_one(clock: Clock, sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", **SETTINGS) as gateway:
        assert [(await gateway.get("/audit")).status for _ in range(40)] == [401] * 40
        assert [answer.status for answer in await tried(gateway, 21)] == [401] * 20 + [429]


async def test_every_shape_of_a_wrong_credential_counts(clock: Clock, sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RATE_LIMIT_CREDENTIALS_PER_5_MINUTES="4") as gateway:
        shapes = [
            {"Authorization": "Bearer nonsense"},
            {"X-API-Key": WRONG},
            {"Authorization": "Basic YTpi"},
            {"Authorization": f"Bearer {gateway.admin}", "X-API-Key": WRONG},
        ]
        assert [(await gateway.get("/audit", headers=shape)).status for shape in shapes] == [401] * 4
        assert [(await gateway.get("/audit", headers=shape)).status for shape in shapes] == [429] * 4


async def test_a_crowd_of_wrong_keys_gets_no_further_than_the_limit(
    clock: Clock, sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", **SETTINGS) as gateway:
        wrong = [gateway.get("/audit", key=f"relay_sk_test_{number:043}") for number in range(200)]
        right = [gateway.get("/audit?limit=1", key=gateway.admin) for _ in range(50)]
        answers = await asyncio.gather(*wrong, *right)
        statuses = [answer.status for answer in answers]
        assert sorted(statuses[:200]) == [401] * 20 + [429] * 180
        assert statuses[200:] == [200] * 50


async def test_the_count_is_shared_over_redis(redis_url: str, sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", REDIS_URL=redis_url, **SETTINGS) as gateway:
        with patience():
            assert [answer.status for answer in await tried(gateway, 21)] == [401] * 20 + [429]
            assert (await gateway.get("/audit", key=gateway.admin)).status == 200
