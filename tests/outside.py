"""The outside world, played on loopback: permits as the gate mints them, certificates, HTTP servers with a script."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.core.action import Decision, Step
from relay.core.ids import new_id
from relay.core.permit import Permit, boot_clock, mint_permit
from relay.core.principal import Principal

WHO = Principal("key_1", "person", "default", frozenset({"actions:execute"}), "key_1", (), "api_key")
ALLOWED = Decision("allow", "test", 1, "a test")
DIGEST = "0" * 64


def make_step(action: str, params: Any, *, nonce: str | None = None) -> Step:
    return Step(action=action, version=1, params=params, nonce=nonce or new_id("nce"), digest=DIGEST)


def make_permit(step: Step | None = None, *, seconds: float = 30.0) -> Permit:
    return mint_permit(
        attempt_id=new_id("att"),
        principal=WHO,
        step=step or make_step("test.action", None),
        decision=ALLOWED,
        approval_id=None,
        deadline=boot_clock() + seconds,
    )


@dataclass
class Certificate:
    """A self-signed certificate with its key, in files."""

    cert: Path
    key: Path


def make_certificate(
    folder: Path, *, names: tuple[str, ...] = ("localhost", "127.0.0.1"), days: float = 1
) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName(list(map(_general_name, names))),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


Script = Callable[["HttpServer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class HttpServer:
    """A server that keeps every byte it was sent and answers by its script."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def answer(text: str | bytes) -> Script:
    """Return a script that reads one request, keeps it, answers ``text`` and closes."""
    data = text.encode() if isinstance(text, str) else text

    async def script(server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        writer.write(data)
        await writer.drain()

    return script


OK = answer("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


@asynccontextmanager
async def http_server(script: Script = OK, *, tls: Any = None, port: int = 0) -> AsyncIterator[HttpServer]:
    server = HttpServer()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(server, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
