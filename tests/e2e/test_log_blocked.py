"""A reader of the log that stops reading costs lines: no request waits for it, and the loss is told afterwards."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.process import GatewayProcess, eventually

REQUESTS = 300


class _Piped(GatewayProcess):
    """A gateway whose standard error is a pipe that nobody reads until :attr:`reading` is set."""

    reading = False
    said = b""
    read = -1

    def spawn(self) -> None:
        self.read, write = os.pipe()
        os.set_blocking(self.read, False)
        self._starts += 1
        command = [sys.executable, "-m", "relay", "serve", "--data-dir", str(self.data), "--port", "0"]
        with (self.home / f"serve-{self._starts}.out").open("wb") as out:
            self._process = subprocess.Popen(command, cwd=self.home, env=self.env, stdout=out, stderr=write)
        os.close(write)

    @property
    def log(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while self.reading and (found := os.read(self.read, 65536)):
                self.said += found
        return self.said.decode()


async def test_requests_go_on_while_nobody_reads_the_log(tmp_path: Path) -> None:
    process = _Piped(tmp_path, env={"LOG_FORMAT": "json"})
    try:
        await process.start()
        # More than a pipe holds: a line of the access log has some 300 bytes, and a pipe takes 64 KiB.
        async with process.client() as client:
            for _ in range(REQUESTS):
                assert (await client.call("GET", "/version")).status == 200
        process.reading = True

        async def lines() -> bool:
            return process.log.count('"/version"') == REQUESTS

        # They waited in memory, where there is room for them.
        await eventually(lines, seconds=60)
        process.signal(signal.SIGTERM)

        async def ended() -> bool:
            return bool(process.log) and process._process is not None and process._process.poll() is not None

        await eventually(ended, seconds=60)
        for line in process.log.splitlines():
            if line.startswith("{"):
                json.loads(line)
    finally:
        process.kill()
        os.close(process.read)


async def test_a_full_pipe_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    process = _Piped(tmp_path, env={"LOG_FORMAT": "json"})
    try:
        await process.start()
        async with process.client() as client:
            for _ in range(REQUESTS):
                assert (await client.call("GET", "/version")).status == 200
        assert await asyncio.wait_for(process.stop(), 60) == 0
    finally:
        process.kill()
        os.close(process.read)
