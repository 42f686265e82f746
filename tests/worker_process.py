"""A real worker in a process of its own: `python -m relay worker`, to start, freeze, kill."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from tests.process import START_SECONDS, STOP_SECONDS, DidNotStart, bare_environment


class WorkerProcess:
    """`relay worker` on the database that its environment names."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        self.home = home
        self.env = bare_environment(home, **env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def out(self) -> str:
        return (self.home / "worker.out").read_text()

    @property
    def log(self) -> str:
        return (self.home / "worker.err").read_text()

    async def start(self) -> Self:
        """Start and return once it works."""
        assert self._process is None
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "worker.out").open("wb") as out, (self.home / "worker.err").open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "relay", "worker", "--data-dir", str(self.home / "data")],
                cwd=self.home,
                env=self.env,
                stdout=out,
                stderr=err,
            )
        until = time.monotonic() + START_SECONDS
        while "relay works on " not in self.out:
            if self._process.poll() is not None or time.monotonic() > until:
                said = f"{self.out}\n{self.log}"
                self.kill()
                raise DidNotStart(said)
            await asyncio.sleep(0.01)
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> int:
        """SIGTERM it and return its exit status."""
        assert self._process is not None
        self._process.terminate()
        status = await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        self._process = None
        return status


@asynccontextmanager
async def worker_process(home: Path, env: Mapping[str, str]) -> AsyncIterator[WorkerProcess]:
    """Run a worker in ``home``; what is left of it is killed at the end."""
    worker = WorkerProcess(home, env)
    try:
        yield await worker.start()
    finally:
        worker.kill()
