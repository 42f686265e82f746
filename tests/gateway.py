"""A real gateway for tests: open house, sealed application, uvicorn on a loopback socket, in the loop of the test.

One loop holds server and test, so that a test may use the house's objects (``gateway.house``) as well as the wire.
"""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import uvicorn
from sqlalchemy import select

import relay.engine
from relay.app import Server, open_server
from relay.catalog import Catalog, Connector
from relay.cli.listener import bind
from relay.cli.process import uvicorn_config
from relay.core.principal import KeyKind
from relay.house import House, open_house
from relay.identity.operator import operator
from relay.settings import Settings, load_settings
from relay.settings.secret_text import generate_kek, generate_secret_key
from relay.store.tables import audit_events
from relay.store.target import Target
from relay.webhooks.schedule import Schedule
from tests.limits_kit import UNLIMITED

REQUEST = "req_test_0001"
GRACE_SECONDS = 2


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are matched without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def expect(self, status: int) -> Any:
        """Return the JSON when the status is the expected one, else fail with the body in sight."""
        assert self.status == status, f"{self.status}: {self.body[:2000]!r}"
        return self.json


@dataclass
class Gateway:
    """A running gateway. ``admin`` is the first key: a person of workspace ``default`` with every scope."""

    url: str
    port: int
    house: House
    server: Server
    session: aiohttp.ClientSession
    admin: str

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
    ) -> Answer:
        """Send one request. ``key`` is a bearer; None sends no credential. ``json`` None sends no body."""
        sent = list(headers.items()) if isinstance(headers, Mapping) else list(headers or ())
        names = {name.lower() for name, _ in sent}
        if key is not None:
            sent.append(("Authorization", f"Bearer {key}"))
        if json is not None:
            data = _encode(json)
            if "content-type" not in names:
                sent.append(("Content-Type", "application/json"))
        elif data is not None and "content-type" not in names:
            sent.append(("Content-Type", "application/json"))
        large = data is not None and len(data) > 1_000_000
        async with self.session.request(
            method,
            self.url + path,
            data=io.BytesIO(data or b"") if large else data,
            headers=sent,
            allow_redirects=False,
            skip_auto_headers=["Content-Type"],
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Answer:
        return await self.call("POST", path, json=json, **options)

    async def raw(self, sent: bytes, *, seconds: float = 5.0) -> bytes:
        """Send bytes on a socket of their own and return one answer's head and body, or what came before the end.

        ``Host: x`` stands for the gateway's own host and port.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(seconds):
                writer.write(sent.replace(b"Host: x\r\n", b"Host: 127.0.0.1:%d\r\n" % self.port))
                await writer.drain()
                return await _read_answer(reader)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def key(
        self, *scopes: str, kind: KeyKind = "agent", workspace: str = "default", days: int = 90, name: str = ""
    ) -> str:
        """Return the text of a real key that the operator made."""
        _, text = await self.house.api_keys.create(
            operator(),
            workspace=workspace,
            kind=kind,
            scopes=scopes,
            name=name,
            expires_days=days,
            request_id=REQUEST,
        )
        return text

    async def events(self, tag: str = "", **equal: str) -> list[dict[str, Any]]:
        """Return audit rows of every workspace, oldest first: those whose tag and columns are as given."""
        columns = audit_events.c
        query = select(audit_events).order_by(columns.seq)
        if tag:
            query = query.where(columns.tag == tag)
        for name, value in equal.items():
            query = query.where(columns[name] == value)
        rows = await self.house.database.reader.all(query)
        return [dict(zip(columns.keys(), row, strict=True)) for row in rows]


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head + await reader.readexactly(int(line.partition(b":")[2]))
        return head + await reader.read()
    except asyncio.IncompleteReadError as error:
        return error.partial


def environment(target: Target, data_dir: Path, **more: str) -> dict[str, str]:
    """Return the settings of an installation on ``target``. With PostgreSQL its keys are kept in ``data_dir``."""
    given = {"RELAY_ENV": "test", "RELAY_DATA_DIR": str(data_dir), **UNLIMITED}
    if target.kind == "sqlite":
        given["DATABASE_URL"] = target.url
    else:
        given["DATABASE_URL"] = target.url.replace("postgresql+psycopg:", "postgresql:", 1)
        given["SECRET_KEY"] = _kept(data_dir / "given_secret_key", generate_secret_key())
        given["OAUTH_ENCRYPTION_KEY"] = _kept(data_dir / "given_encryption_key", generate_kek())
    return {**given, "SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS), **more}


def _kept(path: Path, fresh: str) -> str:
    """Return what an earlier process of the same installation was given."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(fresh)
        path.chmod(0o600)
    return path.read_text()


def settings_for(target: Target, data_dir: Path, **more: str) -> Settings:
    """Return the settings of an installation; nothing of the process's own environment counts."""
    return load_settings(environment(target, data_dir, **more), cwd=data_dir.parent)


@asynccontextmanager
async def open_gateway(
    target: Target,
    data_dir: Path,
    *,
    admin: str = "",
    connectors: Sequence[tuple[Connector, Any]] = (),
    schedule: Schedule | None = None,
    listen: str = "127.0.0.1",
    **settings: str,
) -> AsyncIterator[Gateway]:
    """Serve an installation until the block ends.

    ``admin`` is the first key of an installation that was open before. ``connectors`` come on top of the real ones,
    each with its client. ``schedule`` is that of webhooks. ``listen`` is the address that it believes to be bound to.
    ``settings`` are given as in the environment.
    """
    loaded = settings_for(target, data_dir, **settings)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with _catalog_with(connectors), contextlib.closing(listener):
        async with (
            open_house(loaded) as house,
            open_server(house, listen=(listen, port), schedule=schedule) as server,
            _served(server, listener),
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
        ):
            yield Gateway(f"http://127.0.0.1:{port}", port, house, server, session, server.first_key or admin)
            assert not house.metrics.defects, "a label value that the catalogue of metrics does not declare"


@contextlib.contextmanager
def _catalog_with(connectors: Sequence[tuple[Connector, Any]]) -> Iterator[None]:
    real = relay.engine.build_catalog

    def build(settings: Settings, listen: tuple[str, int]) -> Catalog:
        catalog = real(settings, listen)
        for connector, client in connectors:
            catalog.register(connector, client)
        return catalog

    with mock.patch.object(relay.engine, "build_catalog", build):
        yield


class _QuietServer(uvicorn.Server):
    """Uvicorn that leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _served(server: Server, listener: Any) -> AsyncIterator[None]:
    running = _QuietServer(uvicorn_config(server))
    task = asyncio.create_task(running.serve([listener]), name="test-gateway")
    try:
        while not running.started:
            await asyncio.sleep(0.005)
            if task.done():
                task.result()
                raise RuntimeError("the gateway ended before it had begun")
        yield
    finally:
        running.should_exit = True
        server.close_streams()
        await task
