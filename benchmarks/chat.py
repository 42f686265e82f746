"""The chat above a bare pass-through of the same model: processor time of a turn and of a streamed token, and memory.

A turn of no words and one of many, in turns, tell the two apart: what a turn of N tokens takes is a turn's share and N
times a token's.
"""

import asyncio
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.limits import low
from benchmarks.model_stub import WORD
from benchmarks.servers import Server, start_module, start_relay

FEW, MANY = 10, 210
STREAMS = 16
TURNS = 48
"""Of each length in a slice."""
AT_ONCE, AT_ONCE_WORDS = 100, 40
PAUSE_MS = "10"
"""Between two words of one stream: so far apart that each is a packet, and an event, of its own."""
RELAY, BARE = "Relay, SQLite", "bare pass-through"
_JSON: Final = {"Content-Type": "application/json", "Accept": "text/event-stream"}


@dataclass(frozen=True)
class Cost:
    """Processor time in microseconds."""

    turn: float
    token: float


def main(rounds: int) -> None:
    """Measure both in turns, and print."""
    print(
        f"\nchat turns of {FEW} and of {MANY} streamed tokens on SQLite, {STREAMS} streams at once, a token each "
        f"{PAUSE_MS} ms, one server process each"
    )
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        folder, servers = Path(name), list[Server]()
        try:
            servers.append(stub := start_module("model", folder / "model", "benchmarks.model_stub", PAUSE_MS))
            url = f"http://127.0.0.1:{stub.port}/v1"
            servers.append(bare := start_module(BARE, folder / "bare", "benchmarks.pass_through", url))
            servers.append(relay := start_relay(RELAY, folder / "relay", **_settings(url)))
            costs = _costs([bare, relay], rounds)
            before = relay.resident_mib()
            during = asyncio.run(_resident_with_streams(relay))
        finally:
            for server in reversed(servers):
                server.stop()
    print(_table(costs))
    print(
        f"resident: {before:.0f} MiB before, {during:.0f} MiB with {AT_ONCE} streams at once: "
        f"{(during - before) * 1024 / AT_ONCE:.0f} KiB a stream"
    )


def _settings(url: str) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "sk-of-nobody-0123456789",  # pragma: allowlist secret
        "OPENAI_BASE_URL": url,
        "AI_MODEL": "stub",
        "AI_PRICES": "stub=0/0",
        "AI_CONCURRENCY": str(2 * AT_ONCE),
        "STREAMS_PER_PRINCIPAL": str(AT_ONCE),
    }


def _costs(servers: list[Server], rounds: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {server.name: [] for server in servers}
    for server in servers:
        _cpu(server, FEW)
    for number in range(rounds):
        for server in servers if number % 2 else reversed(servers):
            few, many = _cpu(server, FEW), _cpu(server, MANY)
            token = (many - few) / (MANY - FEW)
            costs[server.name].append(Cost(few - FEW * token, token))
    return costs


def _cpu(server: Server, words: int) -> float:
    """Return the processor time of a turn with so many words, in microseconds."""
    used = server.cpu_seconds()
    asyncio.run(_slice(server, words))
    return (server.cpu_seconds() - used) / TURNS * 1e6


async def _slice(server: Server, words: int) -> None:
    async with _session(server) as session:
        for _ in range(TURNS // STREAMS):
            await asyncio.gather(*(_turn(session, words) for _ in range(STREAMS)))


def _session(server: Server) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        f"http://127.0.0.1:{server.port}",
        headers={"Authorization": f"Bearer {server.key}", **_JSON},
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _turn(session: aiohttp.ClientSession, words: int) -> None:
    """Take one turn, and make sure that every word of it arrived."""
    said = json.dumps({"message": f"Please say {words} words."})
    async with session.post("/chat/", data=said) as answer:
        body = await answer.read()
        assert answer.status == 200, body
    assert body.count(WORD.encode()) >= words, body[-500:]


async def _resident_with_streams(server: Server) -> float:
    """Return the resident memory while many streams are half over, in MiB."""
    async with _session(server) as session:
        turns = [asyncio.create_task(_turn(session, AT_ONCE_WORDS)) for _ in range(AT_ONCE)]
        await asyncio.sleep(1.0)
        found = server.resident_mib()
        await asyncio.gather(*turns)
    return found


def _table(costs: dict[str, list[Cost]]) -> str:
    lines = [f"{'CPU':<20}{'µs/turn':>12}{'µs/token':>12}"]
    found = {
        name: Cost(low([one.turn for one in taken]), low([one.token for one in taken])) for name, taken in costs.items()
    }
    for name, cost in found.items():
        lines.append(f"{name:<20}{cost.turn:>12.0f}{cost.token:>12.1f}")
    bare, relay = found[BARE], found[RELAY]
    lines.append(f"{'  above it':<20}{relay.turn - bare.turn:>12.0f}{relay.token - bare.token:>12.1f}")
    lines.append(f"{'  to it':<20}{relay.turn / bare.turn:>11.1f}×{relay.token / bare.token:>11.1f}×")
    pairs = zip(costs[RELAY], costs[BARE], strict=True)
    middle = statistics.median(with_it.token / without.token for with_it, without in pairs)
    lines.append(f"  tokens, round by round: median {middle:.1f}×")
    return "\n".join(lines)
