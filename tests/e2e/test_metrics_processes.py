"""One scrape of several processes: any of them shows the sum, a killed one leaves its counts, a worker has its own."""

import contextlib
import re
import signal
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from relay.store.target import Target
from tests.metrics_kit import by_key, pick, samples
from tests.postgres import shared_keys
from tests.process import Client, GatewayProcess, eventually, gateway_process
from tests.worker_process import WorkerProcess

ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
TOKEN = "metrics-token-of-a-test-0123456789abcdef"  # pragma: allowlist secret
SECONDS = 60.0


def environment(target: Target, **more: str) -> dict[str, str]:
    return {"DATABASE_URL": target.url.replace("postgresql+psycopg", "postgresql"), **shared_keys(), **more}


def workers_of(server: GatewayProcess) -> list[psutil.Process]:
    """Return the serving processes, without the one that multiprocessing keeps for its own use."""
    found = []
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is none, and its command is gone
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.append(child)
    return found


async def get(url: str, **headers: str) -> tuple[int, str]:
    """Ask on a connection of its own, so that whichever process accepts it answers."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}) as found,
    ):
        return found.status, await found.text()


async def scrape(url: str) -> list[Any]:
    status, body = await get(f"{url}/metrics")
    assert status == 200, body
    return samples(body)


async def executed(url: str) -> float:
    return pick(await scrape(url), "relay_attempts_total", action="relay.echo", outcome="succeeded")


async def execute(client: Client, times: int) -> None:
    for _ in range(times):
        answer = await client.post("/actions/execute", ECHO, Connection="close")
        assert answer.status == 200, answer.body


async def test_two_processes_are_one_target_and_survive_a_kill(tmp_path: Path, postgres_target: Target) -> None:
    env = environment(postgres_target, RATE_LIMIT_GLOBAL_PER_MINUTE="100000", RATE_LIMIT_EXECUTE_PER_MINUTE="100000")
    async with gateway_process(tmp_path / "one", env=env, args=("--workers", "2")) as server:
        await eventually(lambda: _has_key(server), SECONDS)
        operator = str(server.url)
        async with server.client() as client:

            async def both() -> bool:
                return pick(await scrape(operator), "relay_processes", kind="server") == 2

            await eventually(both, SECONDS)
            await execute(client, 20)
            # Whichever process answers, twenty is what there was.
            assert [await executed(operator) for _ in range(8)] == [20.0] * 8
            before = await scrape(operator)
            victim = workers_of(server)[0]
            victim.send_signal(signal.SIGKILL)

            async def noticed() -> bool:
                return victim.pid not in [child.pid for child in workers_of(server)]

            await eventually(noticed, SECONDS)
            seen = [await _patiently(operator)]
            while pick(seen[-1], "relay_processes", kind="server") != 2 or len(seen) < 2:
                seen.append(await _patiently(operator))
                assert len(seen) < 2000
            await execute(client, 5)
            assert [await executed(operator) for _ in range(6)] == [25.0] * 6
            for earlier, later in zip([before, *seen], [*seen, await scrape(operator)], strict=True):
                _never_back(earlier, later)

            async def replaced() -> bool:
                # The slot of the killed one counts until its supervisor has looked.
                return len(workers_of(server)) == 2 and await both()

            await eventually(replaced, SECONDS)
            assert await executed(operator) == 25.0


def _never_back(earlier: list[Any], later: list[Any]) -> None:
    new = by_key(later)
    for (name, labels), number in by_key(earlier).items():
        if name.endswith(("_total", "_count", "_bucket", "_sum")):
            assert new[name, labels] >= number, (name, labels)


async def _patiently(url: str) -> list[Any]:
    """Scrape until it is answered: what the killed process had accepted is lost."""

    async def look() -> Any:
        try:
            return await scrape(url)
        except (OSError, aiohttp.ClientError):
            return None

    found: list[Any] = await eventually(look, SECONDS)
    return found


async def _has_key(server: GatewayProcess) -> bool:
    server.read_first_key()
    return server.first_key is not None


async def test_a_worker_shows_its_own_behind_the_same_guard(tmp_path: Path, postgres_target: Target) -> None:
    env = environment(postgres_target, WORK_IN_SERVER="false", METRICS_TOKEN=TOKEN)
    async with gateway_process(tmp_path / "one", env=env) as server, server.client() as client:
        worker = WorkerProcess(tmp_path / "worker", {**env, "METRICS_PORT": "0"})
        try:
            await worker.start()
            found = re.search(r"metrics: (http://127\.0\.0\.1:\d+)/metrics", worker.out)
            assert found is not None, worker.out
            operator = found[1]
            run = (await client.post("/ai/execute", {"steps": [ECHO, ECHO]})).body["run_id"]
            await client.run_ended(run, SECONDS)

            async def counted() -> Any:
                shown = await scrape(operator)
                outcome = {"action": "relay.echo", "outcome": "succeeded"}
                return shown if pick(shown, "relay_attempts_total", **outcome) == 2 else None

            shown = await eventually(counted, SECONDS)
            assert pick(shown, "relay_processes", kind="worker") == 1
            assert pick(shown, "relay_processes", kind="server") == 0
            assert pick(shown, "relay_runs_ended_total", outcome="succeeded") == 1
            routes = {s.labels["route"] for s in shown if s.name == "relay_http_requests_total"}
            assert routes == {"/metrics", "(none)"}
            for path in ("/actions", "/health", "/ready", "/keys", "/"):
                assert (await get(operator + path))[0] == 404, path
            door = f"{operator}/metrics"
            assert (await get(door, X_Forwarded_For="127.0.0.1"))[0] == 401
            for shown_key, status in ((str(server.first_key), 401), (TOKEN, 200)):
                sent = {"X_Forwarded_For": "127.0.0.1", "Authorization": f"Bearer {shown_key}"}
                assert (await get(door, **sent))[0] == status
            assert pick(await scrape(str(server.url)), "relay_runs_ended_total", outcome="succeeded") == 0
            assert await worker.stop() == 0
        finally:
            worker.kill()
