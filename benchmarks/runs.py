"""Plan runs on PostgreSQL: how long one waits to start, and how many a worker finishes in a second."""

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from benchmarks.servers import Server, environment, start_relay

SINGLES = 100
BACKLOG = 400
START_AIM_MS = 20.0
_STEP = {"action": "relay.echo", "params": {"message": "How soon?"}}
_DEADLINE_SECONDS = 120.0


@dataclass(frozen=True)
class Found:
    """Milliseconds from sending ``POST /ai/execute`` to the first step's start, and finished runs per second."""

    name: str
    p50: float
    p99: float
    rate: float


def main(postgres: Callable[[Path], Any]) -> None:
    """Measure a server that works by itself and a worker beside one that does not, and print."""
    print(f"single-step runs of relay.echo on PostgreSQL, {SINGLES} one after the other, then {BACKLOG} at once")
    found = []
    for name, work in (("server alone", "true"), ("server and worker", "false")):
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder, postgres(Path(folder) / "postgres") as url:
            found.append(_measure(name, Path(folder), url, work))
    print(f"{'':<20}{'start p50 ms':>14}{'start p99 ms':>14}{'runs/s/process':>16}")
    for one in found:
        print(f"{one.name:<20}{one.p50:>14.1f}{one.p99:>14.1f}{one.rate:>16.0f}")
    for one in found:
        sign = "met   " if one.p50 <= START_AIM_MS else "MISSED"
        print(f"{sign}  start of a run, {one.name:<18} {one.p50:8.1f}  (aim ≤ {START_AIM_MS:g})")


def _measure(name: str, folder: Path, url: str, work: str) -> Found:
    shared = {
        "DATABASE_URL": url,
        "SECRET_KEY": secrets.token_hex(32),
        "OAUTH_ENCRYPTION_KEY": urlsafe_b64encode(os.urandom(32)).decode(),
    }
    server = start_relay(name, folder / "server", WORK_IN_SERVER=work, **shared)
    worker = None
    try:
        if work == "false":
            worker = _start_worker(folder / "worker", shared)
        starts = asyncio.run(_singles(server, url))
        if worker is not None:
            worker.terminate()
            worker.wait(60)
            asyncio.run(_order(server, BACKLOG))
            worker = _start_worker(folder / "worker", shared)
        else:
            asyncio.run(_order(server, BACKLOG))
        rate = _rate(url)
    finally:
        if worker is not None:
            worker.terminate()
            worker.wait(60)
        server.stop()
    milliseconds = [1000 * start for start in starts]
    return Found(name, statistics.median(milliseconds), statistics.quantiles(milliseconds, n=100)[98], rate)


def _start_worker(home: Path, shared: dict[str, str]) -> "subprocess.Popen[bytes]":
    home.mkdir(parents=True, exist_ok=True)
    said = home / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay", "worker", "--data-dir", str(home / "data")],
            cwd=home,
            env=environment(home, **shared),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    until = time.monotonic() + _DEADLINE_SECONDS
    while b"relay works on" not in said.read_bytes():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise RuntimeError(said.read_text())
        time.sleep(0.01)
    return process


def _session(server: Server) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", headers={"Authorization": f"Bearer {server.key}"})


async def _accepted(session: aiohttp.ClientSession) -> str:
    async with session.post("/ai/execute", data=json.dumps({"steps": [_STEP]}), headers=_JSON) as answer:
        assert answer.status == 202, await answer.text()
        return str((await answer.json())["run_id"])


_JSON = {"Content-Type": "application/json"}


async def _singles(server: Server, url: str) -> list[float]:
    """Return seconds from sending an order to its first step's start, by the same clock, one order at a time."""
    sent: dict[str, float] = {}
    async with _session(server) as session:
        for _ in range(10):
            await _accepted(session)
        for _ in range(SINGLES):
            began = time.time()
            sent[await _accepted(session)] = began
            await asyncio.sleep(0.03)
    _wait(url)
    query = "SELECT run_id, min(occurred_at) FROM run_events WHERE kind = 'step' AND status = 'running' GROUP BY run_id"
    with psycopg.connect(url) as connection:
        begun: dict[str, int] = dict(connection.execute(query).fetchall())
    return [begun[run_id] / 1_000_000 - at for run_id, at in sent.items()]


async def _order(server: Server, count: int) -> None:
    async with _session(server) as session:
        for _ in range(count // 20):
            await asyncio.gather(*(_accepted(session) for _ in range(20)))


def _wait(url: str) -> None:
    until = time.monotonic() + _DEADLINE_SECONDS
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT 1 FROM runs WHERE finished_at IS NULL LIMIT 1").fetchone():
            if time.monotonic() > until:
                raise RuntimeError("the runs did not end")
            time.sleep(0.02)


def _rate(url: str) -> float:
    """Return how many of the newest runs were finished in a second, once all have been."""
    _wait(url)
    newest = "SELECT id, finished_at FROM runs ORDER BY id DESC LIMIT %s"
    begun = "SELECT min(occurred_at) FROM run_events WHERE status = 'running' AND run_id = ANY(%s)"
    with psycopg.connect(url) as connection:
        runs = connection.execute(newest, (BACKLOG,)).fetchall()
        first = connection.execute(begun, ([run[0] for run in runs],)).fetchone()
    assert first is not None
    seconds = (max(run[1] for run in runs) - first[0]) / 1_000_000
    return float(len(runs) / seconds)
