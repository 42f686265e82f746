"""What waits for approval costs nobody anything: the same requests beside 100, 1,000 and 10,000 that wait."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from benchmarks.servers import Server, start_relay

WAITING = (100, 1_000, 10_000)
OF_EACH_KEY = 100
EACH = 40
FLAT_AIM = 1.2
_AT_ONCE = 32
_PAGE = 100
_ECHO = {"action": "relay.echo", "params": {"message": "Who waits?"}}
_ORDER = {"steps": [_ECHO]}
# What agents ask for waits; what then runs reaches nothing, so that deciding is all that is measured.
_POLICIES = (
    '@id("persons") permit(principal is Relay::Person, action, resource);\n'
    '@id("agents") permit(principal is Relay::Agent, action, resource) when { context.approved };\n'
)

Call = Callable[[], Awaitable[Any]]


@dataclass
class Place:
    """A server, an agent of its workspace, and the milliseconds that each kind of request took."""

    server: Server
    session: aiohttp.ClientSession
    waiting: int
    agent: str = ""
    middle: str = ""
    took: dict[str, list[float]] = field(default_factory=dict)

    async def send(self, method: str, path: str, body: Any = None, *, key: str = "", expected: int = 200) -> Any:
        headers = {"Authorization": f"Bearer {key or self.server.key}"}
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            assert answer.status == expected, await answer.text()
            return await answer.json()

    async def furnish(self) -> None:
        """Have so many requests wait, of so many agents that none meets the bound of one key."""
        await self.send("PUT", "/policies", {"text": _POLICIES})
        self.agent = await self._new_agent()
        agents = [await self._new_agent() for _ in range(self.waiting // OF_EACH_KEY)]
        left = (agent for agent in agents for _ in range(OF_EACH_KEY))

        async def asks() -> None:
            for agent in left:
                await self.ask(agent)

        await asyncio.gather(*(asks() for _ in range(_AT_ONCE)))
        for _ in range(self.waiting // _PAGE // 2):
            self.middle = (await self.send("GET", self._page()))["next_cursor"]

    async def ask(self, agent: str) -> Any:
        return await self.send("POST", "/actions/execute", _ECHO, key=agent, expected=202)

    async def round(self) -> None:
        """Measure each kind of request, one after the other; as much waits afterwards as before."""
        await self._measure("execute, allowed", self._same("POST", "/actions/execute", _ECHO))
        await self._measure("order of a run", self._same("POST", "/ai/execute", _ORDER, expected=202))
        asked = await self._measure("execute, asks for approval", (lambda: self.ask(self.agent) for _ in range(EACH)))
        shown = await self._measure("one request", (self._show(one) for one in asked))
        await self._measure("list: first page", self._same("GET", "/approvals"))
        await self._measure("list: page in the middle", self._same("GET", self._page(20)))
        await self._measure("list: what was denied", self._same("GET", "/approvals?status=denied"))
        await self._measure("approve", (self._decide("approve", one) for one in shown[::2]))
        await self._measure("deny", (self._decide("deny", one) for one in shown[1::2]))

    async def _new_agent(self) -> str:
        wish = {"kind": "agent", "scopes": ["actions:preview", "actions:execute"]}
        return str((await self.send("POST", "/keys", wish, expected=201))["key"])

    def _page(self, limit: int = _PAGE) -> str:
        return f"/approvals?limit={limit}" + (f"&cursor={self.middle}" if self.middle else "")

    def _same(self, method: str, path: str, body: Any = None, expected: int = 200) -> Iterator[Call]:
        return (lambda: self.send(method, path, body, expected=expected) for _ in range(EACH))

    def _show(self, asked: Any) -> Call:
        return lambda: self.send("GET", f"/approvals/{asked['approval_id']}")

    def _decide(self, what: str, shown: Any) -> Call:
        return lambda: self.send("POST", f"/approvals/{shown['approval_id']}/{what}", {"digest": shown["digest"]})

    async def _measure(self, name: str, calls: Iterable[Call]) -> list[Any]:
        answers, took = [], []
        for call in calls:
            began = time.perf_counter()
            answers.append(await call())
            took.append(1000 * (time.perf_counter() - began))
        self.took.setdefault(name, []).extend(took)
        return answers


def main(postgres: Callable[[Path], Any], rounds: int) -> None:
    """Measure three servers in turn, on each store, and print."""
    print("requests beside some that wait for approval, one at a time")
    for store, servers in (("SQLite", _on_sqlite), ("PostgreSQL", lambda folder: _on_postgres(folder, postgres))):
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, servers(Path(name)) as (running, settle):
            _print(store, asyncio.run(_measured(running, settle, rounds)))


@contextmanager
def _on_sqlite(folder: Path) -> Iterator[tuple[list[Server], Callable[[], None]]]:
    with _stopping() as servers:
        servers += [start_relay(f"waiting-{count}", folder / str(count)) for count in WAITING]
        yield servers, lambda: None


@contextmanager
def _on_postgres(folder: Path, postgres: Callable[[Path], Any]) -> Iterator[tuple[list[Server], Callable[[], None]]]:
    with postgres(folder / "postgres") as url, _stopping() as servers:
        urls = [url.replace("/postgres?", f"/waiting_{count}?") for count in WAITING]
        with psycopg.connect(url, autocommit=True) as admin:
            for count in WAITING:
                admin.execute(f"CREATE DATABASE waiting_{count}")
        servers += [
            start_relay(f"waiting-{count}", folder / str(count), found)
            for count, found in zip(WAITING, urls, strict=True)
        ]
        yield servers, lambda: _settle(urls)


@contextmanager
def _stopping() -> Iterator[list[Server]]:
    servers: list[Server] = []
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


def _settle(urls: list[str]) -> None:
    """Have PostgreSQL do now what it would do after so many rows, in the middle of what is measured."""
    for url in urls:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("VACUUM ANALYZE")
            admin.execute("CHECKPOINT")


async def _measured(servers: list[Server], settle: Callable[[], None], rounds: int) -> list[Place]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        places = [Place(server, session, count) for server, count in zip(servers, WAITING, strict=True)]
        for place in places:
            await place.furnish()
            await place.round()
            place.took.clear()
        await asyncio.to_thread(settle)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for place in places:
                await place.round()
        return places


def _print(store: str, places: list[Place]) -> None:
    """Print medians, and how much the fastest ones take beside those of the first place: noise can only add to them."""
    first = places[0]
    print(
        f"{f'{store}, p50 ms beside':<30}"
        + "".join(f"{place.waiting:>10,}" for place in places)
        + "   fastest to first"
    )
    ratios: dict[str, float] = {}
    for what, few in first.took.items():
        found = [min(place.took[what]) / min(few) for place in places[1:]]
        ratios[what] = found[-1]
        figures = "".join(f"{statistics.median(place.took[what]):>10.2f}" for place in places)
        print(f"{what:<30}{figures}  " + "".join(f"{ratio:>8.2f}×" for ratio in found))
    worst = max(ratios, key=lambda what: ratios[what])
    sign = "met   " if ratios[worst] <= FLAT_AIM else "MISSED"
    print(f"{sign}  {store}: at most {ratios[worst]:.2f}×, {worst} (aim ≤ {FLAT_AIM:g})")
