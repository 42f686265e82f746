"""A real Prometheus for tests: Debian's, on loopback, with a configuration of the test's own.

Shared by whoever wants one: ``with PrometheusServer(folder, scrape_configs) as server``. ``config`` is merged on top,
for rule files and Alertmanagers, say. Whoever uses it asks the fixture ``debian("prometheus", "prometheus")`` first.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_SECONDS = 60.0


class QueryFailed(Exception):
    """Prometheus refused an expression; the text says why."""


class PrometheusServer:
    """A server with its data in a folder; it goes away with the block, and its data with the folder."""

    def __init__(
        self,
        folder: Path,
        scrape_configs: Sequence[Mapping[str, Any]],
        *,
        interval: str = "1s",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        every = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
        whole = {"global": every, "scrape_configs": list(scrape_configs), **(config or {})}
        (folder / "prometheus.yml").write_text(json.dumps(whole))  # which is YAML

    def start(self) -> Self:
        """Start and return once it is ready."""
        program = shutil.which("prometheus")
        assert program is not None
        arguments = [
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while not self._ready():
            alive = self._process.poll() is None
            assert alive and time.monotonic() < until, (self._folder / "prometheus.log").read_text()
            time.sleep(0.05)
        return self

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression now, each with ``metric`` and ``value``."""
        form = urllib.parse.urlencode({"query": expression}).encode()
        found = self._ask("/api/v1/query", form)
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def range(self, expression: str, *, seconds: int = 30, step: int = 1) -> list[dict[str, Any]]:
        """Return the series of an expression over the last seconds, each with ``metric`` and ``values``."""
        now = time.time()
        form = {"query": expression, "start": now - seconds, "end": now, "step": step}
        result: list[dict[str, Any]] = self._ask("/api/v1/query_range", urllib.parse.urlencode(form).encode())["data"][
            "result"
        ]
        return result

    def _ask(self, path: str, form: bytes) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(self.url + path, data=form, timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise QueryFailed(json.load(error)["error"]) from None
        return found

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
