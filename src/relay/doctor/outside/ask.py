"""Asking a deployment from outside: a bounded number of requests without any credential."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from relay.doctor.outside.seen import Seen
from relay.egress.probe import NO_ANSWER, Prober, Reply

BURST: Final = 120
STRANGER: Final = "https://attacker.example"
MARK: Final = "X-Relay-Doctor"

_JSON: Final = {"Content-Type": "application/json"}
_AT_ONCE: Final = 8
_LONGEST_WAIT: Final = 65.0
_WAITS: Final = 2
PATIENCE: Final = 180.0
"""For how many seconds in all answers are waited for; what is asked after that counts as not answered."""


async def ask(url: str, *, ca_file: Path | None = None, address: str | None = None, burst: bool = False) -> Seen:
    """Ask the deployment at ``url``, an origin, everything that the checks want to know; about a hundred requests.

    With ``burst`` up to 120 more are sent at once, so that a limit has to refuse. Where a limit refuses what is asked,
    the rest waits for it, at most twice. BadTarget for an address that is none.
    """
    async with Prober(url, ca_file=ca_file, address=address) as prober:
        at = time.time()
        try:
            tls = await prober.tls()
        except (OSError, TimeoutError) as error:
            return Seen(url, at, unreachable=f"no connection can be made ({type(error).__name__})")
        asking = _Asking(prober)
        health = await asking.send("GET", "/health")
        if not health.status:
            return Seen(url, at, unreachable="the connection is made and no answer comes", tls_found=tls)
        guarded = {f"{method} {path}": await asking.send(*_filled(method, path)) for method, path in guarded_routes()}
        replies = {"health": health, **await _strange(asking)}
        return Seen(url, at, None, tls, replies, guarded, await _burst(prober) if burst else ())


def guarded_routes() -> list[tuple[str, str]]:
    """Return method and path of every route of this version that wants a credential."""
    text = (resources.files("relay.doctor.outside") / "routes.txt").read_text(encoding="utf-8")
    return [(method, path) for method, _, path in (line.partition(" ") for line in text.splitlines())]


class _Asking:
    """Sends requests and waits where a limit asks for it, a bounded number of times."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._waits = _WAITS
        self._patience = PATIENCE

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        reply = await self._send(method, path, headers, body)
        while reply.status == 429 and self._waits and (seconds := _retry_after(reply)) <= _LONGEST_WAIT:
            self._waits -= 1
            await pause(seconds)
            reply = await self._send(method, path, headers, body)
        return reply

    async def _send(self, method: str, path: str, headers: Mapping[str, str] | None, body: bytes | None) -> Reply:
        if self._patience <= 0:
            return NO_ANSWER
        began = time.monotonic()
        reply = await self._prober.send(method, path, headers, body)
        self._patience -= time.monotonic() - began
        return reply


async def pause(seconds: float) -> None:
    """Wait for a limit's window to end."""
    await asyncio.sleep(seconds)


def _retry_after(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else _LONGEST_WAIT + 1


def _filled(method: str, path: str) -> tuple[str, str, Mapping[str, str] | None, bytes | None]:
    parts = ["doctor" if part.startswith("{") else part for part in path.split("/")]
    return method, "/".join(parts), *((None, None) if method == "GET" else (_JSON, b"{}"))


async def _strange(asking: _Asking) -> dict[str, Reply]:
    """Send what a stranger would try."""
    mark = secrets.token_hex(8)
    preflight = {"Origin": STRANGER, "Access-Control-Request-Method": "POST"}
    tried: dict[str, tuple[str, str, Mapping[str, str] | None, bytes | None]] = {
        "version": ("GET", "/version", None, None),
        "webhook": ("POST", "/webhooks/relay", _JSON, b"{}"),
        "metrics": ("GET", "/metrics", None, None),
        "metrics-local": ("GET", "/metrics", {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}, None),
        "docs": ("GET", "/docs", None, None),
        "openapi": ("GET", "/openapi.json", None, None),
        "error-missing": ("GET", f"/doctor-{mark}", None, None),
        "error-garbage": ("POST", "/actions/execute", _JSON, b'{"action": '),
        "error-path": ("GET", "/%00%ff/..%2f", None, None),
        "error-method": ("BREW", "/version", None, None),
        "error-long": ("GET", f"/version?{'a' * 9000}", None, None),
        "cors": ("GET", "/version", {"Origin": STRANGER}, None),
        "cors-null": ("GET", "/version", {"Origin": "null"}, None),
        "cors-preflight": ("OPTIONS", "/actions/execute", preflight, None),
        "host": ("GET", "/version", {"Host": "attacker.example"}, None),
        "trace": ("TRACE", "/version", {MARK: mark}, None),
        "security-txt": ("GET", "/.well-known/security.txt", None, None),
    }
    return {name: await asking.send(*request) for name, request in tried.items()}


async def _burst(prober: Prober) -> tuple[Reply, ...]:
    """Send requests, eight at once, until one is refused or 120 have been answered."""
    found: list[Reply] = []
    while len(found) < BURST:
        found += await asyncio.gather(*(prober.send("GET", "/version") for _ in range(_AT_ONCE)))
        if any(reply.status == 429 for reply in found):
            break
    return tuple(found)
