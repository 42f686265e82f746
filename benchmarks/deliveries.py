"""Deliveries of webhooks: how many a second one process makes, what each costs, and whether bad receivers disturb."""

import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.servers import ROOT, Server, environment, start_relay

ENDPOINTS = 10
WAIT_SECONDS = 600.0


class Receivers:
    """The receivers' process."""

    def __init__(self, healthy: int, hanging: int = 0, failing: int = 0) -> None:
        self.healthy = healthy
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.receivers", str(healthy), str(hanging), str(failing)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.ports: list[int] = json.loads(self._process.stdout.readline())

    def ask(self, what: str) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def receivers(*kinds: int) -> Iterator[Receivers]:
    """Run receivers."""
    made = Receivers(*kinds)
    try:
        yield made
    finally:
        made.stop()


@dataclass
class Caller:
    """Makes events: one action each, sent again under the same idempotency key until it is answered."""

    server: Server
    keys: list[str]
    attempts: dict[int, str] = field(default_factory=dict)

    async def event(self, session: aiohttp.ClientSession, number: int) -> None:
        headers = {
            "Authorization": f"Bearer {self.keys[number % len(self.keys)]}",
            "Idempotency-Key": f"event-{number}",
        }
        body = {"action": "relay.echo", "params": {"message": str(number)}}
        while True:
            try:
                url = f"http://127.0.0.1:{self.server.port}/actions/execute"
                async with session.post(url, json=body, headers=headers) as answer:
                    if answer.status == 200:
                        self.attempts[number] = (await answer.json())["attempt_id"]
                        return
                    if answer.status != 503:
                        raise RuntimeError(await answer.text())
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)

    async def burst(self, wanted: range, at_once: int = 16) -> None:
        """Make these events as quickly as that many callers can."""
        numbers = iter(wanted)

        async def one(session: aiohttp.ClientSession) -> None:
            for n in numbers:
                await self.event(session, n)

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(one(session) for _ in range(at_once)))

    async def steadily(self, number: int, rate: float, half: Any) -> None:
        """Make ``rate`` events a second, whatever the answers take; ``half`` is called in the middle."""
        began, tasks = time.monotonic(), []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
            for n in range(number):
                await asyncio.sleep(max(0.0, began + n / rate - time.monotonic()))
                if n == number // 2:
                    tasks.append(asyncio.create_task(half()))
                tasks.append(asyncio.create_task(self.event(session, n)))
            await asyncio.gather(*tasks)


async def endpoints(server: Server, keys: list[str], ports: list[int]) -> None:
    """Make an endpoint for each port, in the workspaces of the keys in turn."""
    async with aiohttp.ClientSession() as session:
        for place, port in enumerate(ports):
            headers = {"Authorization": f"Bearer {keys[place % len(keys)]}"}
            body = {"url": f"http://127.0.0.1:{port}/hook", "events": ["action.succeeded"]}
            async with session.post(
                f"http://127.0.0.1:{server.port}/webhooks/endpoints", json=body, headers=headers
            ) as answer:
                if answer.status != 201:
                    raise RuntimeError(await answer.text())


def arrived(found: Receivers, number: int) -> Any:
    """Return the receivers' report once that many deliveries have come to healthy ones."""
    until = time.monotonic() + WAIT_SECONDS
    while (count := found.ask("count")) < number:
        if time.monotonic() > until:
            raise RuntimeError(f"{count} of {number} deliveries have come")
        time.sleep(0.02)
    return found.ask("all")


def throughput(events: int) -> None:
    """Print deliveries a second and processor time for each."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, receivers(ENDPOINTS) as found:
        server = start_relay("Relay, SQLite", Path(name), EGRESS_ALLOW="127.0.0.1")
        try:
            caller = Caller(server, [server.key])
            used = server.cpu_seconds()
            asyncio.run(caller.burst(range(events)))
            each = (server.cpu_seconds() - used) / events
            asyncio.run(endpoints(server, [server.key], found.ports))
            used, began = server.cpu_seconds(), time.monotonic()
            asyncio.run(caller.burst(range(events, 2 * events)))
            arrived(found, events * ENDPOINTS)
            took = time.monotonic() - began
            used = server.cpu_seconds() - used
        finally:
            server.stop()
    count = events * ENDPOINTS
    print(f"{events} events to {ENDPOINTS} endpoints each, over loopback, one process on SQLite")
    print(f"  {count / took:8.0f} deliveries/s")
    each_delivery = (used - each * events) / count * 1e6
    print(f"  {each_delivery:8.0f} µs of processor time for a delivery, its share of the event included")
    print(f"  {each * 1e6:8.0f} µs for an action without endpoints")


def storm(events: int, rate: float) -> None:
    """Compare healthy receivers' latencies among hanging and failing ones, with a kill, to an undisturbed run."""
    calm, lost = _run(events, rate, 50, 0, 0, kill=False)
    rough, lost_in_storm = _run(events, rate, 30, 10, 10, kill=True)
    print(f"{events} events, {rate:g}/s, to 50 endpoints in workspaces of their own")
    for what, latencies, gone in (("undisturbed", calm, lost), ("10 hang, 10 fail, a kill -9", rough, lost_in_storm)):
        p50, p95 = statistics.median(latencies), statistics.quantiles(latencies, n=20)[18]
        print(f"  {what:<30} p50 {p50 * 1e3:7.1f} ms   p95 {p95 * 1e3:7.1f} ms   lost {gone}")
    ratio = statistics.quantiles(rough, n=20)[18] / statistics.quantiles(calm, n=20)[18]
    print(f"  p95, to the undisturbed run: {ratio:.2f} (aim ≤ 2)")


def _run(events: int, rate: float, healthy: int, hanging: int, failing: int, *, kill: bool) -> tuple[list[float], int]:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as name,
        receivers(healthy, hanging, failing) as found,
    ):
        home = Path(name)
        server = start_relay("Relay, SQLite", home, EGRESS_ALLOW="127.0.0.1")
        order = list(range(len(found.ports)))
        random.Random(7).shuffle(order)
        try:
            keys = [_key(home, server, f"w{place}") for place in order]
            asyncio.run(endpoints(server, keys, [found.ports[place] for place in order]))
            caller = Caller(server, keys)

            async def kill_and_restart() -> None:
                if kill:
                    await asyncio.to_thread(_restart, home, server)

            asyncio.run(caller.steadily(events, rate, kill_and_restart))
            mine = {(order[n % len(order)], attempt) for n, attempt in caller.attempts.items()}
            expected = {(place, attempt) for place, attempt in mine if place < healthy}
            report = arrived(found, len(expected))
        finally:
            server.stop()
    seen = {(place, subject): latency for place, subject, latency in report["seen"]}
    return [seen[pair] for pair in expected if pair in seen], len(expected - seen.keys())


def _key(home: Path, server: Server, workspace: str) -> str:
    command = [sys.executable, "-m", "relay", "key", "create", "--workspace", workspace, "--kind", "person"]
    made = subprocess.run(
        [*command, "--scope", "admin", "--quiet"],
        cwd=home,
        env=environment(home, RELAY_DATA_DIR=str(home / "data")),
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


def _restart(home: Path, server: Server) -> None:
    server.process.kill()
    server.process.wait()
    command = [sys.executable, "-m", "relay", "serve", "--port", str(server.port), "--data-dir", str(home / "data")]
    with (home / "said-again").open("wb") as out:
        env = environment(home, EGRESS_ALLOW="127.0.0.1")
        server.process = subprocess.Popen(command, cwd=home, env=env, stdout=out, stderr=subprocess.STDOUT)


def main(*, events: int = 1_000, storm_events: int = 0, rate: float = 100.0) -> None:
    """Measure and print."""
    throughput(events)
    if storm_events:
        storm(storm_events, rate)
