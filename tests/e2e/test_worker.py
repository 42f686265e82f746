"""Workers in processes of their own: they share the work, and whatever becomes of one, nothing is lost or repeated."""

import asyncio
import collections
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from relay.store.target import Target
from tests.outside import HttpServer, http_server, read_request
from tests.postgres import Postgres, own_postgres, shared_keys
from tests.process import Client, DidNotStart, GatewayProcess, eventually, gateway_process
from tests.worker_process import WorkerProcess, worker_process

ENDED = ("succeeded", "failed", "cancelled", "unknown")
TAKE_OVER_SECONDS = 30.0


class Outside:
    """A server that counts what arrives by path, and answers after a while, or once it may."""

    def __init__(self) -> None:
        self.arrived: collections.Counter[str] = collections.Counter()
        self.seconds = 0.1
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        self.arrived[request.split(b" ", 2)[1].decode()] += 1
        await asyncio.sleep(self.seconds)
        await self.gate.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()


@dataclass
class Site:
    """A server that only takes orders, and what starts workers beside it."""

    home: Path
    target: Target
    env: dict[str, str]
    gateway: GatewayProcess
    client: Client
    outside: Outside
    sink: HttpServer
    stack: AsyncExitStack

    async def worker(self, name: str) -> WorkerProcess:
        return await self.stack.enter_async_context(worker_process(self.home / name, self.env))

    async def start_run(self, name: str, steps: int = 3) -> str:
        """Order a run that calls the sink under a path of each step's own."""
        wanted = [
            {
                "action": "webhook.save",
                "params": {"url": f"http://127.0.0.1:{self.sink.port}/{name}/{step}", "payload": {}},
            }
            for step in range(1, steps + 1)
        ]
        answer = await self.client.post("/ai/execute", {"steps": wanted})
        assert answer.status == 202, answer.body
        return str(answer.body["run_id"])

    async def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get(f"/ai/jobs/{run_id}")).body
        return found

    async def ended(self, run_id: str, seconds: float = 60.0) -> dict[str, Any]:
        return await self.client.run_ended(run_id, seconds)

    def rows(self, sql: str) -> list[Any]:
        with psycopg.connect(self.target.conninfo, autocommit=True) as connection:
            found = connection.execute(sql.encode())
            return found.fetchall() if found.description else []

    def fence(self, run_id: str) -> int:
        return int(self.rows(f"SELECT fence FROM runs WHERE id = '{run_id}'")[0][0])

    async def taken_over(self, run_id: str, fence: int) -> float:
        """Return after how many seconds somebody else has claimed a run."""
        began = time.monotonic()

        async def look() -> bool:
            return self.fence(run_id) > fence

        await eventually(look, 90)
        return time.monotonic() - began

    def expire_attempts(self, *, older: float = 0.0) -> int:
        """Let the leases of attempts that have run for so long be over; else they last as long as the action may."""
        before = round((time.time() - older) * 1_000_000)
        sql = "UPDATE attempts SET lease_until = 1 WHERE status = 'running' AND created_at < {} RETURNING id"
        return len(self.rows(sql.format(before)))


@pytest.fixture
async def site(tmp_path: Path, postgres_target: Target) -> AsyncIterator[Site]:
    outside = Outside()
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(http_server(outside))
        env = {
            "DATABASE_URL": postgres_target.url.replace("postgresql+psycopg", "postgresql"),
            **shared_keys(),
            "EGRESS_ALLOW": f"127.0.0.1:{sink.port}",
            "WORK_IN_SERVER": "false",
        }
        gateway = await stack.enter_async_context(gateway_process(tmp_path / "server", env=env))
        client = await stack.enter_async_context(gateway.client())
        yield Site(tmp_path, postgres_target, env, gateway, client, outside, sink, stack)
        outside.gate.set()


async def test_a_server_that_does_not_work_leaves_runs_to_workers(site: Site) -> None:
    run_id = await site.start_run("early")
    await asyncio.sleep(3)
    assert (await site.run(run_id))["status"] == "queued"
    worker = await site.worker("one")
    assert (await site.ended(run_id))["status"] == "succeeded"
    runs = [await site.start_run(f"r{number}", 2) for number in range(10)]
    for run_id in runs:
        assert (await site.ended(run_id))["status"] == "succeeded"
    assert set(site.outside.arrived.values()) == {1} and len(site.outside.arrived) == 23
    assert await worker.stop() == 0
    tags = [event["tag"] for event in (await site.client.get("/audit?tag=relay:worker:started")).body["items"]]
    assert tags == []  # of the installation, not of a workspace
    assert site.rows("SELECT count(*) FROM audit_events WHERE tag IN ('relay:worker:started', 'relay:worker:stopped')")[
        0
    ] == (2,)
    await site.gateway.verified()


async def test_killed_workers_lose_nothing_and_repeat_nothing(site: Site) -> None:
    workers = [await site.worker("one"), await site.worker("two")]
    runs = {await site.start_run(f"r{number}"): f"r{number}" for number in range(16)}

    async def half_done() -> bool:
        return len(site.outside.arrived) >= 12

    await eventually(half_done, 30)
    for number, worker in enumerate(workers):
        worker.kill()
        await site.worker(f"next{number}")
        await asyncio.sleep(0.5)
    states: list[dict[str, Any]] = []

    async def all_ended() -> bool:
        site.expire_attempts(older=10)  # those of the killed: the sink answers sooner
        states[:] = [await site.run(run_id) for run_id in runs]
        return all(state["status"] in ENDED for state in states)

    await eventually(all_ended, 90, 1.0)
    for state in states:
        assert state["status"] in ("succeeded", "unknown"), state
        for place, step in enumerate(state["steps"], start=1):
            arrived = site.outside.arrived[f"/{runs[state['run_id']]}/{place}"]
            if step["status"] == "succeeded":
                assert arrived == 1
            elif step["status"] == "unknown":
                assert arrived <= 1
            else:
                assert (step["status"], arrived) == ("cancelled", 0)
    assert any(state["status"] == "succeeded" for state in states)
    await site.gateway.verified()


async def test_the_run_of_a_dead_worker_goes_on_elsewhere_within_thirty_seconds(site: Site) -> None:
    site.outside.gate.clear()
    first = await site.worker("one")
    run_id = await site.start_run("left")

    async def begun() -> bool:
        return site.outside.arrived["/left/1"] == 1

    await eventually(begun, 30)
    fence = site.fence(run_id)
    await site.worker("two")
    first.kill()
    seconds = await site.taken_over(run_id, fence)
    assert seconds < TAKE_OVER_SECONDS
    print(f"taken over after {seconds:.1f} s")
    assert site.expire_attempts() == 1
    state = await site.ended(run_id)
    assert [step["status"] for step in state["steps"]] == ["unknown", "cancelled", "cancelled"]
    assert site.outside.arrived == {"/left/1": 1}


async def test_a_frozen_worker_that_wakes_after_the_take_over_leaves_late_evidence_alone(site: Site) -> None:
    site.outside.gate.clear()
    first = await site.worker("one")
    run_id = await site.start_run("frozen")

    async def begun() -> bool:
        return site.outside.arrived["/frozen/1"] == 1

    await eventually(begun, 30)
    fence = site.fence(run_id)
    first.signal(signal.SIGSTOP)
    await site.worker("two")
    await site.taken_over(run_id, fence)
    assert site.expire_attempts() == 1
    state = await site.ended(run_id)
    assert state["status"] == "unknown"
    written = site.rows(f"SELECT seq, kind, step_id, status FROM run_events WHERE run_id = '{run_id}' ORDER BY seq")

    site.outside.gate.set()
    first.signal(signal.SIGCONT)

    async def late() -> list[Any]:
        return site.rows("SELECT outcome FROM audit_events WHERE tag = 'gate:action:late_outcome'")

    assert await eventually(late, 30) == [("succeeded",)]
    # It works on: what it is given now it does.
    other = await site.start_run("after")
    assert (await site.ended(other))["status"] == "succeeded"
    assert await site.run(run_id) == state
    assert written == site.rows(
        f"SELECT seq, kind, step_id, status FROM run_events WHERE run_id = '{run_id}' ORDER BY seq"
    )
    assert site.outside.arrived["/frozen/1"] == 1 and site.outside.arrived["/frozen/2"] == 0
    assert await first.stop() == 0
    await site.gateway.verified()


async def test_a_stop_lets_the_step_under_way_end_and_hands_the_rest_over_at_once(site: Site) -> None:
    site.outside.gate.clear()
    first = await site.worker("one")
    run_id = await site.start_run("handed")

    async def begun() -> bool:
        return site.outside.arrived["/handed/1"] == 1

    await eventually(begun, 30)
    await site.worker("two")
    stopping = asyncio.create_task(first.stop())
    await asyncio.sleep(1)
    assert not stopping.done()
    site.outside.gate.set()
    assert await stopping == 0
    ended = time.monotonic()
    state = await site.ended(run_id)
    assert time.monotonic() - ended < 10, "nobody waited for a lease that was given back"
    assert state["status"] == "succeeded"
    assert site.outside.arrived == {"/handed/1": 1, "/handed/2": 1, "/handed/3": 1}


@pytest.fixture
def server() -> Iterator[Postgres]:
    with own_postgres() as made:
        yield made


async def test_work_goes_on_after_the_database_has_crashed(tmp_path: Path, server: Postgres) -> None:
    outside = Outside()
    async with http_server(outside) as sink, AsyncExitStack() as stack:
        env = {
            "DATABASE_URL": server.url,
            **shared_keys(),
            "EGRESS_ALLOW": f"127.0.0.1:{sink.port}",
            "WORK_IN_SERVER": "false",
        }
        gateway = await stack.enter_async_context(gateway_process(tmp_path / "server", env=env))
        client = await stack.enter_async_context(gateway.client())
        worker = await stack.enter_async_context(worker_process(tmp_path / "worker", env))

        async def start_run(name: str) -> Any:
            steps = [
                {
                    "action": "webhook.save",
                    "params": {"url": f"http://127.0.0.1:{sink.port}/{name}/{step}", "payload": {}},
                }
                for step in (1, 2, 3)
            ]
            answer = await client.post("/ai/execute", {"steps": steps})
            return answer.body.get("run_id")

        runs = [await start_run(f"r{number}") for number in range(6)]

        async def begun() -> bool:
            return sum(outside.arrived.values()) >= 4

        await eventually(begun, 30)
        await asyncio.to_thread(server.crash)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)
        runs.append(await eventually(lambda: start_run("after"), 60, 0.5))
        states = [await client.run_ended(run_id, 90) for run_id in runs]
        assert {state["status"] for state in states} <= {"succeeded", "unknown"}
        assert states[-1]["status"] == "succeeded"
        assert set(outside.arrived.values()) == {1}
        password = json.dumps(env["SECRET_KEY"])
        assert password not in worker.log
        assert await worker.stop() == 0


async def test_on_sqlite_the_worker_says_that_the_server_works_by_itself(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, start=False) as gateway:
        ended = await gateway.command("worker")
        assert ended.returncode == 2
        assert "`relay serve` works by itself" in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
        assert not gateway.data.exists()


async def test_on_sqlite_a_server_that_leaves_the_work_to_nobody_is_refused(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, env={"WORK_IN_SERVER": "false"}, start=False) as gateway:
        with pytest.raises(DidNotStart, match="WORK_IN_SERVER=false leaves the work to `relay worker`"):
            await gateway.start()
