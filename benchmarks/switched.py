"""Processor time of a request with something switched on and off: two servers, in turns, within one run."""

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.limits import cpu, low
from benchmarks.servers import Server, generator, start_relay

CONNECTIONS = 16
PARTS = 4
ROUTE = "/actions/execute"

Variant = tuple[str, Mapping[str, str]]


def compare(
    what: str,
    off: tuple[str, Mapping[str, str]],
    on: tuple[str, Mapping[str, str]],
    *,
    aim: float,
    rounds: int,
    seconds: float,
) -> None:
    """Measure both in turns and print the ratio of ``on`` to ``off``, each a name and its settings."""
    print(f"\nwhat {what} cost, relay.echo through POST {ROUTE} on SQLite, {CONNECTIONS} connections")
    samples: dict[str, list[float]] = {off[0]: [], on[0]: []}
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder, generator() as load:
        servers: list[Server] = []
        try:
            for number, (name, settings) in enumerate((off, on)):
                servers.append(start_relay(name, Path(folder) / str(number), **settings))
            for server in servers:
                cpu(server, load, 1.0)
            for number in range(rounds * PARTS):
                # There and back again: what changes evenly meanwhile falls on both alike.
                for server in servers if number % 2 else reversed(servers):
                    samples[server.name].append(cpu(server, load, seconds / PARTS))
        finally:
            for server in servers:
                server.stop()
    for kind, taken in samples.items():
        print(f"{kind:<26}{low(taken):>8.0f} CPU µs/request")
    ratio = low(samples[on[0]]) / low(samples[off[0]])
    pairs = [with_it / without for with_it, without in zip(samples[on[0]], samples[off[0]], strict=True)]
    first, middle, last = statistics.quantiles(pairs, n=4)
    print(f"{'met   ' if ratio <= aim else 'MISSED'}  {on[0]}, to none  {ratio:.3f}×  (aim ≤ {aim:g})")
    print(f"        pair by pair: median {middle:.3f}×, half of them between {first:.3f}× and {last:.3f}×")
