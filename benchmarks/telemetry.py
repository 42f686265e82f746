"""What metrics cost: processor time of a request with and without them, and of one call."""

import time

from benchmarks.switched import ROUTE, compare
from relay.telemetry.metrics import Metrics

AIM = 1.05
CALLS = 200_000


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
    """Measure in turns and print the ratio, and what one call takes."""
    off = ("TELEMETRY_ENABLED=false", {"ACCESS_LOG": "false", "TELEMETRY_ENABLED": "false"})
    on = ("metrics", {"ACCESS_LOG": "false"})
    compare("metrics", off, on, aim=AIM, rounds=rounds, seconds=seconds)
    print("one call: " + ", ".join(f"{what} {nanoseconds:.0f} ns" for what, nanoseconds in instruments().items()))
