"""Several server processes on one database: what one does holds for the other, and one's end is not the other's."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import psutil
import psycopg
import pytest

from relay.store.target import Target
from tests.outside import HttpServer, http_server, read_request
from tests.postgres import shared_keys
from tests.process import Client, DidNotStart, GatewayProcess, eventually, gateway_process

FREEZES = 10  # about every fourth meets a transaction that holds the head of the chain

Pair = tuple[GatewayProcess, GatewayProcess, Client, Client]


async def slowly(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server.requests.append(await read_request(reader))
    await asyncio.sleep(0.3)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()


def postgres_environment(target: Target, **more: str) -> dict[str, str]:
    return {"DATABASE_URL": target.url.replace("postgresql+psycopg", "postgresql"), **shared_keys(), **more}


@pytest.fixture
async def sink() -> AsyncIterator[HttpServer]:
    async with http_server(slowly) as server:
        yield server


@pytest.fixture
async def pair(tmp_path: Path, postgres_target: Target, sink: HttpServer) -> AsyncIterator[Pair]:
    """Two gateways on one database, and a client of each with the first one's key."""
    env = postgres_environment(postgres_target, EGRESS_ALLOW=f"127.0.0.1:{sink.port}")
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(gateway_process(tmp_path / "one", env=env))
        two = await stack.enter_async_context(gateway_process(tmp_path / "two", env=env))
        assert two.first_key is None
        clients = [await stack.enter_async_context(process.client(one.first_key)) for process in (one, two)]
        yield one, two, clients[0], clients[1]


async def test_a_revocation_holds_on_the_other_server_within_a_second(pair: Pair) -> None:
    _, two, first, _ = pair
    made = (await first.post("/keys", {"kind": "agent", "scopes": ["actions:preview"]})).body
    async with two.client(made["key"]) as agent:
        assert (await agent.get("/actions")).status == 200
        assert (await first.call("DELETE", f"/keys/{made['id']}")).status < 300
        revoked = time.monotonic()
        while True:
            asked = time.monotonic()
            if (await agent.get("/actions")).status == 401:
                break
            assert asked - revoked < 1.0, "it still opened a second after it was revoked"
            await asyncio.sleep(0.01)
        assert (await agent.get("/actions")).status == 401


async def test_twins_on_both_servers_have_one_effect(pair: Pair, sink: HttpServer) -> None:
    one, _, *clients = pair
    params = {"url": f"{sink.url}/hook", "payload": 1}
    twins = [
        clients[number % 2].execute("webhook.save", params, idempotency_key="the-same-for-all") for number in range(16)
    ]
    answers = await asyncio.gather(*twins)
    assert {answer.status for answer in answers} == {200}, [answer.body for answer in answers]
    assert len({answer.body["attempt_id"] for answer in answers}) == 1
    assert len(sink.requests) == 1
    other = await clients[1].execute("webhook.save", {**params, "payload": 2}, idempotency_key="the-same-for-all")
    assert other.status == 409
    assert len(sink.requests) == 1
    await one.verified()


class Caller:
    """Executes without pause and notes the longest time that it waited for a success."""

    def __init__(self, client: Client) -> None:
        self.done = 0
        self.longest = 0.0
        self._client = client
        self._last = time.monotonic()

    async def work(self) -> None:
        while True:
            try:
                answer = await self._client.execute("relay.echo", {"message": "still there?"})
            except aiohttp.ClientError:
                return
            assert answer.status in (200, 503), answer.body
            if answer.status == 200:
                self.done += 1
                self.longest = max(self.longest, time.monotonic() - self._last)
                self._last = time.monotonic()

    async def more(self) -> None:
        """Return once another few requests have succeeded."""
        target = self.done + 20

        async def enough() -> bool:
            return self.done >= target

        await eventually(enough, 15)


async def test_a_frozen_and_killed_server_does_not_hold_the_other_up(pair: Pair) -> None:
    one, two, *clients = pair
    rng = random.Random(time.time_ns())
    callers = [Caller(client) for client in clients]
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(caller.work()) for caller in callers for _ in range(6)]
        for _ in range(FREEZES):
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            one.signal(signal.SIGSTOP)
            await callers[1].more()
            one.signal(signal.SIGCONT)
            await callers[0].more()
        one.signal(signal.SIGSTOP)
        await callers[1].more()
        one.kill()
        await callers[1].more()
        print(f"longest wait on the other server: {callers[1].longest:.2f} s")
        assert callers[1].longest < 6
        assert await two.stop() == 0
        await asyncio.wait(workers)
    await two.verified()


async def test_an_outcome_that_comes_after_the_sweep_is_kept_as_an_event(
    pair: Pair, sink: HttpServer, postgres_target: Target
) -> None:
    one, two, first, second = pair
    asking = asyncio.create_task(first.execute("webhook.save", {"url": f"{sink.url}/hook", "payload": 1}))

    async def arrived() -> bool:
        return bool(sink.requests)

    await eventually(arrived)
    one.signal(signal.SIGSTOP)
    with psycopg.connect(postgres_target.conninfo, autocommit=True) as admin:
        moved = admin.execute("UPDATE attempts SET lease_until = 1 WHERE status = 'running' RETURNING id").fetchall()
    ((attempt_id,),) = moved

    async def swept() -> bool:
        return bool((await second.get(f"/attempts/{attempt_id}")).body["status"] == "unknown")

    await eventually(swept)
    one.signal(signal.SIGCONT)
    answered = await asking
    assert (answered.status, answered.body["attempt_id"]) == (504, attempt_id)

    events = (await second.get("/audit?action=webhook.save")).body["items"]
    assert [(event["tag"], event["outcome"]) for event in events] == [
        ("gate:action:late_outcome", "succeeded"),
        ("gate:attempt:swept", "unknown"),
        ("gate:action:intent", ""),
    ]
    assert (await second.get(f"/attempts/{attempt_id}")).body["status"] == "unknown"
    await two.verified()


async def test_a_second_server_on_one_sqlite_folder_is_refused(tmp_path: Path) -> None:
    async with gateway_process(tmp_path / "one") as one, gateway_process(tmp_path / "two", start=False) as two:
        two.data = one.data
        with pytest.raises(DidNotStart, match="another relay server uses .*; stop it, or choose another --data-dir"):
            await two.start()
        async with one.client() as client:
            assert (await client.execute("relay.echo", {"message": "unharmed"})).status == 200
        assert await one.stop() == 0
        await two.start()


async def test_several_workers_on_sqlite_are_refused_with_a_way_out(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, start=False) as gateway:
        ended = await gateway.command("serve", "--port", "0", "--workers", "2")
        assert ended.returncode == 2
        assert "DATABASE_URL=postgresql://" in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
        assert not gateway.data.exists()


def workers_of(gateway: GatewayProcess) -> list[psutil.Process]:
    living = [child for child in psutil.Process(gateway.pid).children() if child.status() != "zombie"]
    return [child for child in living if "spawn_main" in " ".join(child.cmdline())]


async def test_several_workers_on_postgresql_serve_are_replaced_and_stop(
    tmp_path: Path, postgres_target: Target
) -> None:
    env = postgres_environment(postgres_target)
    async with gateway_process(tmp_path, env=env, args=("--workers", "2")) as gateway:

        async def both_listen() -> bool:
            return gateway.out.count("relay listens on") == 2

        await eventually(both_listen, 30)
        assert gateway.out.count("relay_sk_") == 1
        gateway.read_first_key()

        async with gateway.client() as client:
            answers = await asyncio.gather(*(client.execute("relay.echo", {"message": "x"}) for _ in range(40)))
            assert {answer.status for answer in answers} == {200}
            before = workers_of(gateway)
            assert len(before) == 2
            before[0].kill()

            async def replaced() -> bool:
                return len(workers_of(gateway)) == 2 and gateway.out.count("relay listens on") == 3

            await eventually(replaced, 30)
        async with gateway.client() as client:
            assert (await client.execute("relay.echo", {"message": "x"})).status == 200
        now = workers_of(gateway)
        assert await gateway.stop() == 0
        assert not [process for process in now if process.is_running()]
        await gateway.verified()


async def test_workers_end_with_the_process_that_watches_them(tmp_path: Path, postgres_target: Target) -> None:
    async with gateway_process(tmp_path, env=postgres_environment(postgres_target), args=("--workers", "2")) as gateway:
        workers = workers_of(gateway)
        assert len(workers) == 2
        gateway.kill()

        async def gone() -> bool:
            return not any(worker.is_running() for worker in workers)

        await eventually(gone, 15)
