"""What waits for approval costs nobody else anything: the same requests beside none and beside 10,000 that wait."""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from benchmarks.servers import Server, start_relay

WAITING = 10_000
EACH = 40
FLAT_AIM = 1.2
_AT_ONCE = 32
_ROOM = {"APPROVALS_PER_KEY": "100000", "APPROVALS_PER_WORKSPACE": "100000"}
_ECHO = {"action": "relay.echo", "params": {"message": "Who waits?"}}
_ORDER = {"steps": [_ECHO]}
# An agent's write to somewhere outside: by the default policy a person has to agree.
_ASK = {"action": "webhook.save", "params": {"url": "https://hooks.example.com/waits", "payload": {}}}


@dataclass
class Place:
    """A server, an agent of its workspace, and the milliseconds that each kind of request took, round by round."""

    server: Server
    session: aiohttp.ClientSession
    agent: str = ""
    took: dict[str, list[float]] = field(default_factory=dict)

    async def send(self, method: str, path: str, body: Any, *, key: str, expected: int) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            assert answer.status == expected, await answer.text()
            return await answer.json()

    async def furnish(self) -> None:
        wish = {"kind": "agent", "scopes": ["actions:preview", "actions:execute"]}
        self.agent = (await self.send("POST", "/keys", wish, key=self.server.key, expected=201))["key"]

    async def ask(self) -> None:
        await self.send("POST", "/actions/execute", _ASK, key=self.agent, expected=202)

    async def fill(self, count: int) -> None:
        """Have so many requests wait."""
        left = itertools.repeat(None, count)

        async def asks() -> None:
            for _ in left:
                await self.ask()

        await asyncio.gather(*(asks() for _ in range(_AT_ONCE)))

    async def round(self) -> None:
        """Measure each kind of request, one after the other."""
        key = self.server.key
        for name, call in (
            ("execute, allowed", lambda: self.send("POST", "/actions/execute", _ECHO, key=key, expected=200)),
            ("execute, asks for approval", self.ask),
            ("order of a run", lambda: self.send("POST", "/ai/execute", _ORDER, key=key, expected=202)),
            ("list of what waits", lambda: self.send("GET", "/approvals", None, key=key, expected=200)),
        ):
            self.took.setdefault(name, []).append(await _median(call))


def _settle(url: str) -> None:
    """Have PostgreSQL do now what it would do after so many rows, in the middle of what is measured."""
    for database in ("few", "many"):
        with psycopg.connect(_database(url, database), autocommit=True) as admin:
            admin.execute("VACUUM ANALYZE")
            admin.execute("CHECKPOINT")


def _database(url: str, name: str) -> str:
    return url.replace("/postgres?", f"/{name}?")


async def _median(call: Callable[[], Any]) -> float:
    took = []
    for _ in range(EACH):
        began = time.perf_counter()
        await call()
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def main(postgres: Callable[[Path], Any], rounds: int) -> None:
    """Measure two servers in turn, one with many requests that wait, and print."""
    print(f"requests on PostgreSQL beside none and beside {WAITING:,} that wait for approval, one at a time")
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, postgres(Path(name) / "postgres") as url:
        folder, servers = Path(name), []
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("CREATE DATABASE few")
            admin.execute("CREATE DATABASE many")
        try:
            for database in ("few", "many"):
                servers.append(start_relay(database, folder / database, _database(url, database), **_ROOM))
            few, many = asyncio.run(_measured(servers, url, rounds))
        finally:
            for server in servers:
                server.stop()
    print(f"{'':<30}{'none, p50 ms':>14}{f'{WAITING:,}, p50 ms':>18}{'ratio':>9}")
    ratios = {}
    for what, alone in few.items():
        ratios[what] = statistics.median(b / a for a, b in zip(alone, many[what], strict=True))
        print(f"{what:<30}{statistics.median(alone):>14.2f}{statistics.median(many[what]):>18.2f}{ratios[what]:>8.2f}×")
    for what, found in ratios.items():
        print(f"{'met   ' if found <= FLAT_AIM else 'MISSED'}  {what:<36} {found:8.2f}  (aim ≤ {FLAT_AIM:g})")


async def _measured(servers: list[Server], url: str, rounds: int) -> list[dict[str, list[float]]]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        places = [Place(server, session) for server in servers]
        for place in places:
            await place.furnish()
            await place.round()
            place.took.clear()
        began = time.perf_counter()
        await places[1].fill(WAITING)
        print(f"{WAITING:,} requests were made in {time.perf_counter() - began:.0f} s")
        await asyncio.to_thread(_settle, url)
        for _ in range(rounds):
            for place in places:
                await place.round()
        return [place.took for place in places]
