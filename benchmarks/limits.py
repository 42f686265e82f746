"""What limits cost: the guarded action without any and with three, in process and on Redis, beside other libraries."""

import asyncio
import contextlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load import Slice
from benchmarks.servers import Generator, Server, generator, start_module, start_relay
from relay.core.limit import Limit
from relay.limits.counters import Hit
from relay.limits.memory import MemoryCounters
from relay.limits.rules import Rule
from tests.redis_server import RedisServer

CONNECTIONS = 16
VARIANTS = "benchmarks.variants"
RELAY, FASTAPI = "Relay, no limit", "FastAPI, no limit"
AIMS = {"Relay, 3 limits": 1.10, "Relay, 3 on Redis": 1.20}
LIBRARIES = ("slowapi", "limits")
CHECKS = 50_000
PARTS = 4
"""Slices of a round: the differences are small, so many short ones tell more than a few long ones."""


def missing() -> list[str]:
    """Return the libraries that are not there to be compared with."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, list[Server]]]:
    """Yield the servers, by the one without limits that each is compared with, which comes first."""
    with RedisServer(folder) as redis, contextlib.ExitStack() as stack:

        def kept(server: Server) -> Server:
            stack.callback(server.stop)
            return server

        groups = {
            RELAY: [
                kept(start_relay(RELAY, folder / "none", module=VARIANTS, LIMITS="0")),
                kept(start_relay("Relay, 3 limits", folder / "memory", module=VARIANTS, LIMITS="3")),
                kept(
                    start_relay("Relay, 3 on Redis", folder / "redis", module=VARIANTS, LIMITS="3", REDIS_URL=redis.url)
                ),
            ]
        }
        if not missing():
            groups[FASTAPI] = [kept(start_module(FASTAPI, folder / "bare", "benchmarks.bare"))]
            for library in LIBRARIES:
                for name, where in ((f"{library}, 3 limits", []), (f"{library}, 3 on Redis", [_their_url(redis.url)])):
                    home = folder / name.replace(" ", "-")
                    groups[FASTAPI].append(kept(start_module(name, home, "benchmarks.others", library, *where)))
        yield groups


def _their_url(url: str) -> str:
    return url.replace("unix://", "redis+unix://", 1)


def cpu(server: Server, load: Generator, seconds: float) -> float:
    """Return the processor time of a request, in microseconds."""
    used = server.cpu_seconds()
    found = load.measure(Slice(server.port, server.request(), CONNECTIONS, seconds))
    return (server.cpu_seconds() - used) / found.answers * 1e6


def low(samples: list[float]) -> float:
    """Return the lower quartile: whatever else the machine does can only add to what a request takes."""
    return statistics.quantiles(samples, n=4)[0]


def checks(count: int) -> float:
    """Return what one check of three rules takes in process, in microseconds."""
    rules = [Rule(f"r{number}", Limit(count, 60), "workspace", "", "", "") for number in range(3)]
    hits = [Hit(rule, b"%032d" % number) for number, rule in enumerate(rules)]

    async def many() -> float:
        counters = MemoryCounters()
        began = time.perf_counter()
        for _ in range(CHECKS):
            await counters.take(hits)
        return (time.perf_counter() - began) / CHECKS * 1e6

    return asyncio.run(many())


def main(rounds: int, seconds: float) -> None:
    """Measure in turns and print the ratios to the same server without limits."""
    print(f"\nwhat limits cost, {CONNECTIONS} connections, one server process each")
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, running(Path(name)) as groups, generator() as load:
        servers = [server for group in groups.values() for server in group]
        samples: dict[str, list[float]] = {server.name: [] for server in servers}
        for server in servers:
            cpu(server, load, 1.0)
        for number in range(rounds * PARTS):
            if not number % PARTS:
                print(f"round {number // PARTS + 1} of {rounds}", flush=True)
            # There and back again: what changes evenly meanwhile falls on every server alike.
            for server in servers if number % 2 else reversed(servers):
                samples[server.name].append(cpu(server, load, seconds / PARTS))
        names = {base: [server.name for server in group] for base, group in groups.items()}
    _print(names, samples)
    log, cell = checks(100), checks(10**6)
    print(f"a check of three rules in process: {log:.1f} µs by log (mostly refused), {cell:.1f} µs by cell")
    if missing():
        print(f"LEFT OUT: {' and '.join(missing())} (make bench installs them: requirements/bench.txt)")


def _print(names: dict[str, list[str]], samples: dict[str, list[float]]) -> None:
    print(f"\n{'':<24}{'CPU µs/request':>16}{'to no limit':>14}")
    for base, group in names.items():
        for name in group:
            ratio = low(samples[name]) / low(samples[base])
            aim = AIMS.get(name)
            verdict = "" if aim is None else f"  {'met' if ratio <= aim else 'MISSED'} (aim ≤ {aim:g})"
            print(f"{name:<24}{low(samples[name]):>16.0f}{ratio:>13.2f}×{verdict}")
