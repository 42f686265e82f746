"""Full disks and lost databases: nothing runs that cannot be written down, and all is well again without a restart.

A full disk is a small tmpfs, filled to the last byte, where this may be mounted (root). Everywhere, the same happens
by a limit on the size of the process's files, which needs no rights.
"""

import asyncio
import contextlib
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.outside import HttpServer, http_server, read_request
from tests.postgres import Postgres, own_postgres, shared_keys
from tests.process import Answer, Client, GatewayProcess, eventually, gateway_process

REFUSED_WITHIN = 20.0
TMPFS_BYTES = 16 * 1024 * 1024
PAYLOAD = "x" * 50_000  # so that the room that the write-ahead log still has is soon used up


class Disk(Protocol):
    """Where a gateway's data lies."""

    def fill(self, gateway: GatewayProcess) -> None: ...
    def free(self, gateway: GatewayProcess) -> None: ...


class Tmpfs:
    """A file system of its own, so small that a file can take all of it: writes then fail with ENOSPC."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self, gateway: GatewayProcess) -> None:
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(OSError):
                for size in (65_536, 4096):
                    with contextlib.suppress(OSError):
                        while True:
                            os.write(descriptor, bytes(size))
        finally:
            os.close(descriptor)

    def free(self, gateway: GatewayProcess) -> None:
        self._filler.unlink()


class SizeLimit:
    """No file may grow beyond the size that the log of the database has now: writes then fail with EFBIG."""

    def fill(self, gateway: GatewayProcess) -> None:
        size = (gateway.data / "relay.db-wal").stat().st_size
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def free(self, gateway: GatewayProcess) -> None:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _mount(folder: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=0700", "relay-test", folder]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def _may_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        mounted = _mount(folder)
        if mounted:
            subprocess.run(["umount", folder], check=True)
        return mounted


@pytest.fixture(params=["tmpfs", "size limit"] if _may_mount() else ["size limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Where the gateway of the test, whose home is ``tmp_path / "home"``, keeps its data."""
    if request.param == "size limit":
        yield SizeLimit()
        return
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    assert _mount(str(data))
    try:
        yield Tmpfs(data)
    finally:
        subprocess.run(["umount", "--lazy", str(data)], check=True)


class Sink:
    """A server's script that answers at once, or, when it is told to, waits for a sign."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        await self.go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()


class World:
    """A gateway, a client of it, and the server whose requests are the effects that count."""

    def __init__(self, gateway: GatewayProcess, client: Client, server: HttpServer, sink: Sink) -> None:
        self.gateway = gateway
        self.client = client
        self.sink = sink
        self._server = server

    @property
    def effects(self) -> int:
        return len(self._server.requests)

    async def act(self, payload: str = "") -> Answer:
        return await self.client.execute("webhook.save", {"url": f"{self._server.url}/hook", "payload": payload})

    async def recovers(self, seconds: float = 20.0) -> Answer:
        async def works() -> Answer | None:
            answer = await self.act()
            return answer if answer.status == 200 else None

        found: Answer = await eventually(works, seconds)
        return found

    async def loses(self, break_it: Callable[[], None]) -> Answer:
        """Return the answer to an action during whose effect ``break_it`` was called."""
        self.sink.go.clear()
        before = self.effects
        asking = asyncio.create_task(self.act(PAYLOAD))

        async def begun() -> bool:
            return self.effects > before

        await eventually(begun)
        await asyncio.to_thread(break_it)
        self.sink.go.set()
        return await asking

    async def settles(self, attempt_id: str) -> str:
        """Return how an attempt ended, once it has."""

        async def look() -> Any:
            found = await self.client.get(f"/attempts/{attempt_id}")
            return found.status == 200 and found.body["status"] != "running" and found.body["status"]

        return str(await eventually(look, 30))


@contextlib.asynccontextmanager
async def world(home: Path, **env: str) -> AsyncIterator[World]:
    sink = Sink()
    async with http_server(sink) as server:
        allowed = {"EGRESS_ALLOW": f"127.0.0.1:{server.port}", **env}
        async with gateway_process(home, env=allowed) as gateway, gateway.client() as client:
            yield World(gateway, client, server, sink)


def assert_refused(answer: Answer) -> None:
    assert answer.status == 503, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["type"] == "urn:relay:problem:unavailable" and int(answer.headers["Retry-After"]) > 0


def assert_unknown(answer: Answer) -> str:
    assert answer.status == 504, answer.body
    assert (answer.body["attempt_status"], answer.body["code"]) == ("unknown", "outcome_unwritten")
    return str(answer.body["attempt_id"])


async def test_on_a_full_disk_nothing_runs_until_there_is_space_again(tmp_path: Path, disk: Disk) -> None:
    async with world(tmp_path / "home") as relay:
        assert (await relay.act()).status == 200
        disk.fill(relay.gateway)
        happened, unknown = relay.effects, []
        for _ in range(200):
            answer = await relay.act(PAYLOAD)
            if answer.status == 503:
                break
            assert answer.status in (200, 504), answer.body
            happened += 1
            if answer.status == 504:
                unknown.append(assert_unknown(answer))
        assert_refused(answer)
        for _ in range(5):
            assert_refused(await relay.act(PAYLOAD))
        assert relay.effects == happened
        assert (await relay.client.get("/health")).status == 200
        assert (await relay.client.get("/ready")).body["checks"]["database"] == "ok"

        disk.free(relay.gateway)
        await relay.recovers()
        for attempt_id in unknown:
            assert await relay.settles(attempt_id) == "succeeded"
        await relay.gateway.verified()


async def test_a_disk_that_fills_up_during_the_effect_leaves_the_outcome_unknown_then_known(
    tmp_path: Path, disk: Disk
) -> None:
    async with world(tmp_path / "home") as relay:
        assert (await relay.act(PAYLOAD)).status == 200
        attempt_id = assert_unknown(await relay.loses(lambda: disk.fill(relay.gateway)))
        assert (await relay.client.get(f"/attempts/{attempt_id}")).body["status"] == "running"
        disk.free(relay.gateway)
        assert await relay.settles(attempt_id) == "succeeded"
        await relay.gateway.verified()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with own_postgres() as server:
        yield server


def crash(postgres: Postgres) -> None:
    postgres.crash()


def freeze(postgres: Postgres) -> None:
    postgres.freeze()


def restart(postgres: Postgres) -> None:
    postgres.start()


def thaw(postgres: Postgres) -> None:
    postgres.thaw()


LOSSES = pytest.mark.parametrize(("lose", "restore"), [(crash, restart), (freeze, thaw)], ids=["crashed", "frozen"])


@pytest.mark.timeout(240)
@LOSSES
async def test_without_its_database_nothing_runs_until_it_is_back(
    tmp_path: Path, postgres: Postgres, lose: Callable[[Postgres], None], restore: Callable[[Postgres], None]
) -> None:
    async with world(tmp_path, DATABASE_URL=postgres.url, **shared_keys()) as relay:
        assert (await relay.act()).status == 200
        await asyncio.to_thread(lose, postgres)
        for _ in range(2):
            began = time.monotonic()
            for answer in await asyncio.gather(*(relay.act() for _ in range(6))):
                assert_refused(answer)
            took = time.monotonic() - began
            print(f"refused within {took:.1f} s")
            assert took < REFUSED_WITHIN
            began = time.monotonic()
            assert (await relay.client.get("/health")).status == 200
            assert time.monotonic() - began < 2
        assert (await relay.client.get("/ready")).status == 503
        assert relay.effects == 1

        await asyncio.to_thread(restore, postgres)
        await relay.recovers()
        assert relay.effects == 2
        assert (await relay.client.get("/ready")).status == 200
        assert postgres.query("SELECT status, count(*) FROM attempts GROUP BY status") == [("succeeded", 2)]
        await relay.gateway.verified()


@pytest.mark.timeout(240)
@LOSSES
async def test_a_database_lost_during_the_effect_leaves_the_outcome_unknown_then_known(
    tmp_path: Path, postgres: Postgres, lose: Callable[[Postgres], None], restore: Callable[[Postgres], None]
) -> None:
    async with world(tmp_path, DATABASE_URL=postgres.url, **shared_keys()) as relay:
        attempt_id = assert_unknown(await relay.loses(lambda: lose(postgres)))
        await asyncio.to_thread(restore, postgres)
        assert await relay.settles(attempt_id) == "succeeded"
        assert relay.effects == 1
        events = (await relay.client.get("/audit?action=webhook.save")).body["items"]
        assert [(event["tag"], event["outcome"]) for event in events] == [
            ("gate:action:outcome", "succeeded"),
            ("gate:action:intent", ""),
        ]
        await relay.recovers()
        await relay.gateway.verified()
