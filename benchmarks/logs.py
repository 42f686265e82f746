"""What JSON access logs cost: processor time of a request with and without them, in turns, within one run.

Both servers count metrics and neither traces; what a span costs while nobody traces is in both.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks.limits import cpu, low
from benchmarks.servers import Server, generator, start_relay

CONNECTIONS = 16
PARTS = 4
AIM = 1.10
OFF, ON = "ACCESS_LOG=false", "JSON access log"
ROUTE = "/actions/execute"


def main(rounds: int, seconds: float) -> None:
    """Measure in turns and print the ratio."""
    print(f"\nwhat access logs cost, relay.echo through POST {ROUTE} on SQLite, {CONNECTIONS} connections")
    samples: dict[str, list[float]] = {OFF: [], ON: []}
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, generator() as load:
        servers: list[Server] = []
        try:
            servers.append(start_relay(OFF, Path(name) / "off", ACCESS_LOG="false"))
            servers.append(start_relay(ON, Path(name) / "on", ACCESS_LOG="true", LOG_FORMAT="json"))
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
    ratio = low(samples[ON]) / low(samples[OFF])
    pairs = [on / off for on, off in zip(samples[ON], samples[OFF], strict=True)]
    first, middle, last = statistics.quantiles(pairs, n=4)
    print(f"{'met   ' if ratio <= AIM else 'MISSED'}  JSON access log, to none  {ratio:.3f}×  (aim ≤ {AIM:g})")
    print(f"        pair by pair: median {middle:.3f}×, half of them between {first:.3f}× and {last:.3f}×")
