"""Deployments that violate one thing each: a server on loopback that answers as Relay would, but for one answer."""

import asyncio
import json
import re
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from tests.outside import Certificate, HttpServer, http_server, make_certificate, read_request

Headers = dict[str, str]


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    number: int


@dataclass
class Said:
    """One answer. ``status`` 0 hangs up."""

    status: int
    headers: Headers = field(default_factory=dict)
    body: bytes = b""


Spoil = Callable[[Asked, Said], Said]


def problem(status: int, detail: str = "No.") -> Said:
    body = json.dumps({"type": "urn:relay:problem:x", "status": status, "detail": detail, "request_id": "req_1"})
    return Said(status, {"Content-Type": "application/problem+json"}, body.encode())


def ok(document: object, kind: str = "application/json") -> Said:
    body = document if isinstance(document, str) else json.dumps(document)
    return Said(200, {"Content-Type": kind}, body.encode())


def restrained(said: Said) -> Said:
    """Add what every answer of Relay carries."""
    common = {
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "Cache-Control": "no-store",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "RateLimit": '"global-ip";r=99;t=60',
        "RateLimit-Policy": '"global-ip";q=100;w=60',
        "Date": format_datetime(datetime.now(UTC), usegmt=True),
    }
    return Said(said.status, {**common, **said.headers}, said.body)


def sound(asked: Asked, authority: str) -> Said:
    """Answer as Relay would."""
    expires = (datetime.now(UTC) + timedelta(days=90)).strftime("%Y-%m-%dT%H:%M:%SZ")
    public: dict[str, Said] = {
        "/health": ok({"status": "ok"}),
        "/version": ok({"name": "relay", "version": "0.1.0"}),
        "/.well-known/security.txt": ok(f"Contact: mailto:security@example.com\nExpires: {expires}\n", "text/plain"),
    }
    path = asked.path.partition("?")[0]
    if asked.headers.get("host") != authority:
        return problem(421)
    if asked.method == "OPTIONS":
        return Said(204)
    if len(asked.path) > 8192:
        return problem(431)
    if asked.method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        return problem(405)
    if path == "/webhooks/relay":
        return problem(401, "The signature is missing.")
    if path in public:
        return public[path]
    if re.fullmatch(r"/(doctor-.*|%.*)", path):
        return problem(404)
    return problem(401)


@dataclass
class Stranger:
    """A running deployment."""

    url: str
    certificate: Certificate | None
    server: HttpServer
    asked: list[Asked]


@asynccontextmanager
async def deployment(
    folder: Path,
    spoil: Spoil = lambda _, said: said,
    *,
    tls: bool = True,
    old_tls: bool = False,
    days: float = 30,
    names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    limit: int = 100,
) -> AsyncIterator[Stranger]:
    """Serve what a sound deployment answers, passed through ``spoil``; ``/version`` is limited to ``limit`` answers."""
    asked: list[Asked] = []
    authority = ""

    async def script(_: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await read_request(reader)).split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
            method, path, _version = head[0].split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            request = Asked(method, path, headers, len(asked))
            asked.append(request)
            versions = sum(each.path == "/version" and each.method == "GET" for each in asked)
            answer = sound(request, authority)
            if versions > limit and path == "/version":
                answer = problem(429)
                answer.headers["Retry-After"] = "99"
            said = spoil(request, restrained(answer))
            if not said.status:
                return
            lines = [f"HTTP/1.1 {said.status} X", *(f"{name}: {value}" for name, value in said.headers.items())]
            body = b"" if said.status == 204 else said.body
            writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            await writer.drain()

    certificate = make_certificate(folder, names=names, days=days) if tls else None
    context = None if certificate is None else _context(certificate, old=old_tls)
    async with http_server(script, tls=context) as server:
        authority = f"127.0.0.1:{server.port}"
        yield Stranger(f"http{'s' if tls else ''}://{authority}", certificate, server, asked)


def _context(certificate: Certificate, *, old: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    if old:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context
