"""The processes that are measured: Relay on SQLite, Relay on PostgreSQL, and a bare FastAPI application."""

import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import Found, Slice
from relay.limits.rules import RULES

ROOT = Path(__file__).parents[1]
BODY = '{"action":"relay.echo","params":{"message":"How fast is the guarded path?"}}'
START_SECONDS = 60.0
HIGH_LIMITS = {rule.setting.upper(): "1000000" for rule in RULES}  # checked at each request, but never met
_KEY = re.compile(r"^ {4}(relay_sk_\w+)$", re.MULTILINE)


@dataclass
class Server:
    """A running server. ``started`` is the seconds from exec to the first 200 on ``/health``."""

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    key: str
    started: float

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used, all threads, user and system (proc(5))."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Return the resident memory (VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024

    def request(self) -> str:
        """Return the raw request: the same bytes for each server, but for the port and the key."""
        return (
            f"POST /actions/execute HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return all that a server's environment holds, so that nothing on this machine changes what is measured."""
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "SECRETS_FROM_ENVIRONMENT": "accepted",
        "LOG_LEVEL": "warning",
        **HIGH_LIMITS,
        **more,
    }


def start_bare(home: Path) -> Server:
    """Start the bare FastAPI application."""
    return _start("bare FastAPI", home, ["-m", "benchmarks.bare", "{port}"], environment(home))


def start_relay(
    name: str, home: Path, database_url: str | None = None, *, module: str = "relay", **settings: str
) -> Server:
    """Start Relay on a new database: the key that it makes then is the one that is used.

    Its limits hold, and are set so high that the load meets none.
    """
    more = {} if database_url is None else {"DATABASE_URL": database_url, **_new_keys()}
    command = ["-m", module, "serve", "--port", "{port}", "--data-dir", str(home / "data")]
    return _start(name, home, command, environment(home, **HIGH_LIMITS, **more, **settings))


def start_module(name: str, home: Path, module: str, *arguments: str) -> Server:
    """Start an application of the benchmarks' own; it is given its port first."""
    return _start(name, home, ["-m", module, "{port}", *arguments], environment(home))


def _new_keys() -> dict[str, str]:
    """A shared database wants its keys given."""
    return {"SECRET_KEY": secrets.token_hex(32), "OAUTH_ENCRYPTION_KEY": urlsafe_b64encode(os.urandom(32)).decode()}


def _start(name: str, home: Path, command: list[str], env: dict[str, str]) -> Server:
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    said = home / "said"
    with said.open("wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *(part.format(port=port) for part in command)],
            cwd=home,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        started = _healthy(process, port, began)
        key = _KEY.search(said.read_text())
        return Server(name, process, port, key[1] if key else "none", started)
    except BaseException:
        process.kill()
        process.wait()
        print(said.read_text(), file=sys.stderr)
        raise


def _healthy(process: "subprocess.Popen[bytes]", port: int, began: float) -> float:
    while process.poll() is None and time.perf_counter() - began < START_SECONDS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        with contextlib.closing(connection), contextlib.suppress(ConnectionError):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return time.perf_counter() - began
        time.sleep(0.005)
    raise RuntimeError("the server did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Generator:
    """The load generator's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, wanted: Slice) -> Found:
        """Measure one slice; RuntimeError when the generator gave up."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(wanted)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator gave up; what it met stands above")
        return Found(**json.loads(line))

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def generator() -> Iterator[Generator]:
    """Run a load generator."""
    made = Generator()
    try:
        yield made
    finally:
        made.stop()
