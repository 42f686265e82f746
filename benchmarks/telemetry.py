"""What metrics cost: processor time of a request with and without them, in turns, within one run."""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.limits import cpu, low
from benchmarks.servers import Server, generator, start_relay
from relay.telemetry.metrics import Metrics

CONNECTIONS = 16
PARTS = 4
AIM = 1.05
OFF, ON = "TELEMETRY_ENABLED=false", "metrics"
CALLS = 200_000
ROUTE = "/actions/execute"


def instruments() -> dict[str, float]:
    """Return what one call of an instrument takes, in nanoseconds."""
    found = {}
    for name, metrics in (("on", Metrics()), ("off", Metrics.off())):
        metrics.seal(routes=[ROUTE], actions=["relay.echo"])
        counter = metrics.counter("relay_http_requests_total")
        histogram = metrics.histogram("relay_http_request_duration_seconds")
        for what, call in (
            ("counter", lambda counter=counter: counter.add(ROUTE, "2xx")),
            ("histogram", lambda histogram=histogram: histogram.observe(0.004, ROUTE)),
        ):
            began = time.process_time()
            for _ in range(CALLS):
                call()
            found[f"{what}, {name}"] = (time.process_time() - began) / CALLS * 1e9
    return found


def main(rounds: int, seconds: float) -> None:
    """Measure in turns and print the ratio."""
    print(f"\nwhat metrics cost, relay.echo through POST {ROUTE} on SQLite, {CONNECTIONS} connections")
    samples: dict[str, list[float]] = {OFF: [], ON: []}
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, generator() as load:
        servers: list[Server] = []
        try:
            servers.append(start_relay(OFF, Path(name) / "off", ACCESS_LOG="false", TELEMETRY_ENABLED="false"))
            servers.append(start_relay(ON, Path(name) / "on", ACCESS_LOG="false"))
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
    print(f"{'met   ' if ratio <= AIM else 'MISSED'}  metrics, to none  {ratio:.3f}×  (aim ≤ {AIM:g})")
    print(f"        pair by pair: median {middle:.3f}×, half of them between {first:.3f}× and {last:.3f}×")
    print("one call: " + ", ".join(f"{what} {nanoseconds:.0f} ns" for what, nanoseconds in instruments().items()))
