"""A real gateway in a process of its own: `python -m relay serve` in a bare environment, to start, kill, restart."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.limits_kit import UNLIMITED

SOURCES = Path(__file__).parents[1] / "src"
START_SECONDS = 60.0
STOP_SECONDS = 45.0
_LISTENS = re.compile(r"^relay listens on (http://\S+:(\d+)) ", re.MULTILINE)
_FIRST_KEY = re.compile(r"^ {4}(relay_sk_\w+)$", re.MULTILINE)


def bare_environment(home: Path, **more: str) -> dict[str, str]:
    """Return all that a gateway's environment holds; PYTHONPATH lets it run from a checkout that is not installed."""
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(SOURCES),
        "RELAY_ENV": "production",
        "SECRETS_FROM_ENVIRONMENT": "accepted",
        **UNLIMITED,
        **more,
    }


class DidNotStart(Exception):
    """The process ended, or said nothing in time; the message holds what it printed."""


class GatewayProcess:
    """`relay serve` on a free port, and commands beside it. Each start writes its output to files of its own.

    ``under`` is a command that runs the server's.
    """

    def __init__(
        self,
        home: Path,
        *,
        env: Mapping[str, str] | None = None,
        args: tuple[str, ...] = (),
        under: tuple[str, ...] = (),
    ) -> None:
        self.home = home
        self.data = home / "data"
        self.env = bare_environment(home, **(env or {}))
        self.args = args
        self.under = under
        self.url = ""
        self.port = 0
        self.first_key: str | None = None
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def out(self) -> str:
        return self._output("out")

    @property
    def log(self) -> str:
        return self._output("err")

    def _output(self, kind: str) -> str:
        return (self.home / f"serve-{self._starts}.{kind}").read_text()

    def spawn(self) -> None:
        """Begin to start, without waiting."""
        assert self._process is None, "it runs already"
        self._starts += 1
        serve = [sys.executable, "-m", "relay", "serve", "--data-dir", str(self.data), "--port", "0"]
        command = [*self.under, *serve, *self.args]
        with (
            (self.home / f"serve-{self._starts}.out").open("wb") as out,
            (self.home / f"serve-{self._starts}.err").open("wb") as err,
        ):
            self._process = subprocess.Popen(command, cwd=self.home, env=self.env, stdout=out, stderr=err)

    async def start(self) -> Self:
        """Start and return once it listens; a first start also fills :attr:`first_key`."""
        self.spawn()
        until = time.monotonic() + START_SECONDS
        while (found := _LISTENS.search(self.out)) is None:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > until:
                said = f"{self.out}\n{self.log}"
                self.kill()
                raise DidNotStart(said)
            await asyncio.sleep(0.01)
        self.url, self.port = found[1], int(found[2])
        self.read_first_key()
        return self

    def read_first_key(self) -> None:
        """Look whether the first key has been printed; with several workers, any of them may be the one that does."""
        if (key := _FIRST_KEY.search(self.out)) is not None:
            self.first_key = key[1]

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it, if it runs, and wait until the kernel has let go of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> int:
        """SIGTERM it and return its exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Return the exit status once it has ended by itself."""
        assert self._process is not None
        status = await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        self._process = None
        return status

    async def command(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `relay …` on the same installation and return how it ended."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "relay", *args],
            cwd=self.home,
            env={**self.env, "RELAY_DATA_DIR": str(self.data)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    async def new_key(self, *scopes: str, workspace: str = "default", kind: str = "agent") -> str:
        """Make a key by the command line and return its text."""
        wanted = [argument for scope in scopes for argument in ("--scope", scope)]
        made = await self.command("key", "create", "--workspace", workspace, "--kind", kind, *wanted, "--quiet")
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    async def verified(self) -> dict[str, Any]:
        """Return what `relay audit verify --json` says; fails unless it says that the log holds."""
        ended = await self.command("audit", "verify", "--json")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        assert found["ok"] is True
        return found

    def client(self, key: str | None = None) -> "Client":
        """Return a client with ``key``, the first key by default; it follows the gateway through its restarts."""
        return Client(self, key)


@asynccontextmanager
async def gateway_process(
    home: Path,
    *,
    env: Mapping[str, str] | None = None,
    args: tuple[str, ...] = (),
    under: tuple[str, ...] = (),
    start: bool = True,
) -> AsyncIterator[GatewayProcess]:
    """Run a gateway in ``home``; whatever is left of it is killed at the end."""
    home.mkdir(parents=True, exist_ok=True)
    process = GatewayProcess(home, env=env, args=args, under=under)
    try:
        yield await process.start() if start else process
    finally:
        process.kill()


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, its JSON read."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Client:
    """JSON over HTTP to one gateway process."""

    def __init__(self, process: GatewayProcess, key: str | None) -> None:
        self._process = process
        self._key = key or process.first_key
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=60)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request and return the answer; aiohttp.ClientError when none came. Keywords are headers."""
        assert self._session is not None
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._key is not None:
            sent.setdefault("Authorization", f"Bearer {self._key}")
        async with self._session.request(method, self._process.url + path, json=body, headers=sent) as answer:
            return Answer(answer.status, answer.headers, await answer.json(content_type=None))

    async def get(self, path: str) -> Answer:
        return await self.call("GET", path)

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        return await self.call("POST", path, body, **headers)

    async def execute(self, action: str, params: dict[str, Any], **headers: str) -> Answer:
        return await self.post("/actions/execute", {"action": action, "params": params}, **headers)

    async def run_ended(self, run_id: str, seconds: float = 20.0) -> dict[str, Any]:
        """Return a run once it has ended."""

        async def look() -> Any:
            found = await self.get(f"/ai/jobs/{run_id}")
            assert found.status == 200, found.body
            return None if found.body["status"] in ("queued", "running") else found.body

        ended: dict[str, Any] = await eventually(look, seconds)
        return ended


async def eventually(look: Callable[[], Awaitable[Any]], seconds: float = 10.0, pause: float = 0.05) -> Any:
    """Call until it returns something true, and return that; fails after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < until, f"nothing within {seconds:g} s; the last look gave {found!r}"
        await asyncio.sleep(pause)
