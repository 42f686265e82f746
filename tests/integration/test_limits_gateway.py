"""Rate limits over HTTP: what is counted, what callers are told, and that waiting as told is enough."""

import asyncio
import functools
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from unittest import mock

import pytest

import relay.limits.service
from relay.limits.memory import MemoryCounters
from relay.store.target import Target
from tests.gateway import Answer, Gateway, open_gateway
from tests.limits_kit import Clock, patience

PLAN = {"prompt": "Email ada@example.com about lunch saying hello"}
ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
QUOTA_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The clock of every gateway that is opened after it."""
    found = Clock()
    with mock.patch.object(relay.limits.service, "MemoryCounters", functools.partial(MemoryCounters, clock=found)):
        yield found


async def answers(gateway: Gateway, number: int, key: str, path: str = "/ai/plan", json: object = PLAN) -> list[Answer]:
    return [await gateway.post(path, json, key=key) for _ in range(number)]


async def test_the_eleventh_plan_within_any_minute_waits_and_no_other_workspace_does(
    clock: Clock, sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RATE_LIMIT_PLAN_PER_MINUTE="10") as gateway:
        key, other = await gateway.key("developer"), await gateway.key("developer", workspace="other")
        assert [answer.status for answer in await answers(gateway, 5, key)] == [200] * 5
        clock.move(40)
        assert [answer.status for answer in await answers(gateway, 6, gateway.admin)] == [200] * 5 + [429]
        assert (await gateway.post("/ai/plan", PLAN, key=other)).status == 200
        clock.at += 19_999_999
        assert (await gateway.post("/ai/plan", PLAN, key=key)).status == 429
        clock.at += 1
        assert [answer.status for answer in await answers(gateway, 6, key)] == [200] * 5 + [429]
        clock.move(60)
        assert [answer.status for answer in await answers(gateway, 11, key)] == [200] * 10 + [429]


async def test_a_refusal_names_the_policies_and_says_when(clock: Clock, sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(
        sqlite_target,
        tmp_path / "data",
        RATE_LIMIT_PLAN_PER_MINUTE="1",
        RATE_LIMIT_GLOBAL_PER_MINUTE="100",
        RATE_LIMIT_PER_MINUTE="30",
    ) as gateway:
        await gateway.post("/ai/plan", PLAN, key=gateway.admin)
        clock.move(53.5)
        began = time.time()
        refused = await gateway.post("/ai/plan", PLAN, key=gateway.admin)
        problem = refused.expect(429)
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert (problem["type"], problem["violated-policies"], problem["retry_after"]) == (QUOTA_TYPE, ["plan-ws"], 7)
        assert "rate limit" in problem["detail"]
        said = datetime.fromisoformat(problem["detail"].rpartition(" at ")[2].rstrip("."))
        assert 5 <= said.timestamp() - began <= 8
        assert refused.headers["Retry-After"] == "7"
        assert refused.headers["RateLimit-Policy"] == '"global-ip";q=100;w=60, "plan-ws";q=1;w=60'
        assert refused.headers["RateLimit"] == '"global-ip";r=98;t=7, "plan-ws";r=0;t=7'
        assert (refused.headers["X-RateLimit-Limit"], refused.headers["X-RateLimit-Remaining"]) == ("1", "0")
        assert 6 <= int(refused.headers["X-RateLimit-Reset"]) - began <= 9
        assert {name.lower() for name in refused.headers} >= {"x-request-id", "content-security-policy"}


async def test_every_limited_answer_reports_whatever_its_status(
    clock: Clock, sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_gateway(
        sqlite_target, tmp_path / "data", RATE_LIMIT_GLOBAL_PER_MINUTE="100", RATE_LIMIT_EXECUTE_PER_MINUTE="30"
    ) as gateway:
        viewer = await gateway.key("viewer")
        asked = [
            (200, await gateway.get("/version")),
            (200, await gateway.post("/actions/execute", ECHO, key=gateway.admin)),
            (422, await gateway.post("/actions/execute", {"action": "relay.echo"}, key=gateway.admin)),
            (401, await gateway.get("/audit")),
            (403, await gateway.get("/audit", key=viewer)),
            (404, await gateway.get("/nowhere")),
            (404, await gateway.get("/attempts/att_none", key=viewer)),
            (405, await gateway.call("DELETE", "/version")),
        ]
        left = 100
        for status, answer in asked:
            assert answer.status == status
            left -= 1
            assert f'"global-ip";r={left};t=60' in answer.headers["RateLimit"], status
        executed = asked[1][1]
        assert executed.headers["RateLimit-Policy"] == '"global-ip";q=100;w=60, "execute-ws";q=30;w=60'
        assert (executed.headers["X-RateLimit-Limit"], executed.headers["X-RateLimit-Remaining"]) == ("30", "29")
        health = await gateway.get("/health")
        assert health.status == 200 and "RateLimit" not in health.headers


async def test_the_global_limit_holds_everywhere_but_for_health(
    clock: Clock, sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RATE_LIMIT_GLOBAL_PER_MINUTE="4") as gateway:
        paths = ["/version", "/nowhere", "/ready", "/audit"]
        assert [(await gateway.get(path)).status for path in paths] == [200, 404, 200, 401]
        for method, path in [("GET", "/version"), ("GET", "/nowhere"), ("POST", "/nowhere"), ("PUT", "/version")]:
            assert (await gateway.call(method, path)).status == 429
        assert (await gateway.get("/audit", key=gateway.admin)).status == 429
        assert [(await gateway.get("/health")).status for _ in range(20)] == [200] * 20
        clock.move(60)
        assert (await gateway.get("/audit", key=gateway.admin)).status == 200


async def test_a_refused_request_uses_nothing_up(clock: Clock, sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(
        sqlite_target, tmp_path / "data", RATE_LIMIT_GLOBAL_PER_MINUTE="5", RATE_LIMIT_EXECUTE_PER_MINUTE="2"
    ) as gateway:
        viewer, agent = await gateway.key("viewer"), await gateway.key("developer")
        # Without the scope: the workspace's limit is not the viewer's to use up.
        assert [(await gateway.post("/actions/execute", ECHO, key=viewer)).status for _ in range(3)] == [403] * 3
        clock.move(30)
        assert [answer.status for answer in await answers(gateway, 2, agent, "/actions/execute", ECHO)] == [200] * 2
        # Refused for its address: neither the address nor the workspace counts it.
        assert [answer.status for answer in await answers(gateway, 3, agent, "/actions/execute", ECHO)] == [429] * 3
        clock.move(30)
        last = await gateway.post("/actions/execute", ECHO, key=agent)
        assert last.headers["RateLimit"] == '"global-ip";r=2;t=30, "execute-ws";r=0;t=30'


async def test_a_wait_covers_every_stage(clock: Clock, sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(
        sqlite_target,
        tmp_path / "data",
        RATE_LIMIT_GLOBAL_PER_MINUTE="3",
        RATE_LIMIT_EXECUTE_PER_MINUTE="1",
        RATE_LIMIT_ACTIONS="relay.echo=1/10",
    ) as gateway:
        assert (await gateway.get("/version")).status == 200
        clock.move(20)
        assert (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).status == 200
        clock.move(5)
        refused = await gateway.post("/actions/execute", ECHO, key=gateway.admin)
        # The workspace is free again in 55 s, the address, whose count this was the last of, in 35 s.
        assert (refused.status, refused.headers["Retry-After"]) == (429, "55")
        clock.move(int(refused.headers["Retry-After"]))
        assert (await gateway.post("/actions/execute", ECHO, key=gateway.admin)).status == 200


async def test_an_actions_own_refusal_waits_for_the_stages_before_it(
    clock: Clock, sqlite_target: Target, tmp_path: Path
) -> None:
    async with open_gateway(
        sqlite_target, tmp_path / "data", RATE_LIMIT_EXECUTE_PER_MINUTE="2", RATE_LIMIT_ACTIONS="relay.echo=1/10"
    ) as gateway:
        execute = functools.partial(gateway.post, "/actions/execute", ECHO, key=gateway.admin)
        assert (await execute()).status == 200
        clock.move(4)
        refused = await execute()
        # In 6 s the action would be free, but the route's second and last place has just been taken.
        problem = refused.expect(429)
        assert (problem["violated-policies"], problem["retry_after"]) == (["relay.echo-10s-ws"], 56)
        assert refused.headers["Retry-After"] == "56" and "in 56 s" in problem["detail"]
        clock.move(56)
        assert (await execute()).status == 200


@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_a_caller_that_really_waits_gets_through(
    store: str, redis_url: str, sqlite_target: Target, tmp_path: Path
) -> None:
    more = {"REDIS_URL": redis_url} if store == "redis" else {}
    more["RATE_LIMIT_ACTIONS"] = "relay.echo=3/2"
    async with open_gateway(sqlite_target, tmp_path / "data", **more) as gateway:
        execute = functools.partial(gateway.post, "/actions/execute", ECHO, key=gateway.admin)
        with patience():
            assert [(await execute()).status for _ in range(3)] == [200] * 3
            for _ in range(2):
                refused = await execute()
                assert refused.status == 429 and refused.headers["Retry-After"] in ("1", "2")
                await asyncio.sleep(int(refused.headers["Retry-After"]))
                assert (await execute()).status == 200
                while (await execute()).status == 200:  # the rest of what has come back meanwhile
                    pass


async def test_observing_counts_and_reports_and_refuses_nothing(
    clock: Clock, sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(
        sqlite_target,
        tmp_path / "data",
        RATE_LIMIT_MODE="observe",
        RATE_LIMIT_PLAN_PER_MINUTE="2",
        RATE_LIMIT_GLOBAL_PER_MINUTE="20",
        RATE_LIMIT_CREDENTIALS_PER_5_MINUTES="1",
        RATE_LIMIT_ACTIONS="relay.echo=1/60",
    ) as gateway:
        found = await answers(gateway, 4, gateway.admin)
        assert [answer.status for answer in found] == [200] * 4
        assert [answer.headers["X-RateLimit-Remaining"] for answer in found] == ["1", "0", "0", "0"]
        assert "Retry-After" not in found[3].headers
        executed = await answers(gateway, 3, gateway.admin, "/actions/execute", ECHO)
        assert [answer.status for answer in executed] == [200] * 3
        assert [(await gateway.get("/audit", key="relay_sk_live_no")).status for _ in range(3)] == [401] * 3
        assert [(await gateway.get("/version")).status for _ in range(15)] == [200] * 15
        state = gateway.server.limits.state
        assert state.observed == {"plan-ws": 2, "relay.echo-60s-ws": 2, "credentials-ip": 2, "global-ip": 5}
        assert not state.refused
    said = [record.message for record in caplog.records if record.name == "relay.limits"]
    assert len(said) == 4 and all("would have refused" in line for line in said)


async def test_refusals_are_counted_by_policy(clock: Clock, sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RATE_LIMIT_GLOBAL_PER_MINUTE="2") as gateway:
        assert [(await gateway.get("/version")).status for _ in range(5)] == [200, 200, 429, 429, 429]
        assert gateway.server.limits.state.refused == {"global-ip": 3}
