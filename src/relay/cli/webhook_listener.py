"""The listener of ``relay webhook listen``: a server on loopback that shows and verifies what it is sent."""

import asyncio
import json
from typing import Any, Final

import typer
import uvicorn
from starlette.types import Receive, Scope, Send

from relay.cli.listener import bind
from relay.cli.webhook import judge, printable, verdict_text, verdict_view
from relay.core.clock import iso, now
from relay.crypto.webhooks import Refused, Scheme, Verdict

HOST: Final = "127.0.0.1"
MAX_BODY: Final = 1024 * 1024
SHOWN: Final = 16 * 1024


def run_listener(
    *, port: int, scheme: Scheme, keys: list[bytes] | None, answer: int, count: int | None, as_json: bool
) -> None:
    """Serve until interrupted, or until ``count`` requests have been answered; OSError when the port is taken.

    Without ``keys`` nothing is verified.
    """
    listener = bind(HOST, port)
    shower = _Shower(scheme, keys, answer, count, as_json=as_json)
    config = uvicorn.Config(
        shower,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    server = shower.server = uvicorn.Server(config)
    typer.echo(f"listening on http://{HOST}:{listener.getsockname()[1]}/", err=True)
    try:
        asyncio.run(server.serve([listener]))
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has ended in good order
        return
    finally:
        listener.close()


class _Shower:
    """The application: one line, or one block, for each request."""

    def __init__(
        self, scheme: Scheme, keys: list[bytes] | None, answer: int, count: int | None, *, as_json: bool
    ) -> None:
        self.server: uvicorn.Server | None = None
        self._scheme = scheme
        self._keys = keys
        self._answer = answer
        self._left = count
        self._as_json = as_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _body(receive)
        except _Aborted:
            return
        if body is None:
            await _say(send, 413)
            return
        at = now()
        verdict = None
        if self._keys is not None:
            verdict = judge(self._scheme, self._keys, list(scope["headers"]), body, at)
        show = _as_json if self._as_json else _as_text
        typer.echo(show(scope, body, verdict, at))
        await _say(send, 401 if isinstance(verdict, Refused) else self._answer)
        if self._left is not None:
            self._left -= 1
            if self._left <= 0 and self.server is not None:
                self.server.should_exit = True


class _Aborted(Exception):
    """The sender hung up before its body was complete: no request has arrived."""


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body, None when it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Aborted
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _say(send: Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _as_json(scope: Scope, body: bytes, verdict: Verdict | None, at: int) -> str:
    seen: dict[str, Any] = {
        "received_at": iso(at),
        "method": scope["method"],
        "path": _target(scope),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "signature": None if verdict is None else verdict_view(verdict),
        "body": body.decode("utf-8", "backslashreplace"),
    }
    return json.dumps(seen)


def _as_text(scope: Scope, body: bytes, verdict: Verdict | None, at: int) -> str:
    said = "not verified: no --secret-file was given" if verdict is None else verdict_text(verdict)
    lines = [f"{iso(at)} {scope['method']} {printable(_target(scope))}", f"  signature: {said}"]
    lines += [
        f"  {printable(name.decode('latin-1'))}: {printable(value.decode('latin-1'))}"
        for name, value in scope["headers"]
    ]
    shown = printable(body[:SHOWN].decode("utf-8", "backslashreplace"))
    # Indented line by line, so that no body can look like a request of its own.
    lines += ["", *(f"    {line}" for line in shown.split("\n"))]
    if len(body) > SHOWN:
        lines.append(f"    … {len(body) - SHOWN} bytes more")
    return "\n".join([*lines, ""])


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])
