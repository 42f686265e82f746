"""A Relay under watch that is neglected and breaks: its past, its database, its models, and what is done to them."""

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from relay.core.clock import DAY, MICROSECONDS, now
from relay.house import open_house
from relay.settings import load_settings
from tests.inbox import smtp_inbox
from tests.model_server import MODEL, Asked, ModelServer, fail, open_model_server, say
from tests.model_server import AnyReply as ModelReply
from tests.monitors import free_port, monitors
from tests.outside import http_server
from tests.pager import Pager, open_pager
from tests.process import Client, GatewayProcess, eventually, gateway_process
from tests.unusual_kit import began, record
from tests.watched_world import TOKEN, Receiver, Watched, hastened, key_ids

SPECIAL = {
    "verification_age": "5s",
    "latency_minimum": "5",
    "burn_fast": "900",  # nine of ten requests: what is told here is the slow burn, which a fast one keeps back
}
LAST_TRY = 7
"""How many attempts a delivery has behind it when the next one is its last."""
_AGED = "UPDATE secret_keys SET first_seen_at = first_seen_at + :by, current_at = current_at + :by"


@dataclass
class Broken(Watched):
    """A gateway of production, who watches it and who is told. ``habitual`` is a key with a past of three days."""

    gateway: GatewayProcess
    client: Client
    habitual: Client
    model: ModelServer
    receiver_url: str
    pager: Pager
    values: dict[str, str]
    watched_since: float
    measured: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        return self.gateway.data / "relay.db"

    @contextmanager
    def no_writes(self) -> Iterator[None]:
        """Keep Relay from writing its database for as long as the block takes."""
        with closing(sqlite3.connect(self.database, timeout=60, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")

    def change(self, *statements: str) -> None:
        """Change the database behind Relay's back."""
        with closing(sqlite3.connect(self.database, timeout=60)) as database, database:
            for statement in statements:
                assert database.execute(statement).rowcount != 0, statement

    async def preview(self) -> None:
        """Ask for a decision, which must be written down to be answered."""
        body = {"action": "relay.echo", "params": {"message": "again"}}
        answer = await self.client.post("/actions/preview", body)
        assert answer.status in (200, 503), answer.body

    async def look(self) -> None:
        """Ask for what only has to be read."""
        assert (await self.client.get("/actions")).status == 200

    async def verify(self) -> None:
        """Have the audit log verified."""
        assert (await self.client.get("/audit/verify")).body["ok"] is True

    async def slow_caller(self) -> None:
        """Send a request whose body comes late, as far as Relay's own time is measured."""
        body = b'{"action":"relay.echo","params":{"message":"slowly"}}'
        head = (
            f"POST /actions/preview HTTP/1.1\r\nHost: 127.0.0.1:{self.gateway.port}\r\n"
            f"Authorization: Bearer {self.gateway.first_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        with closing(writer):
            writer.write(head.encode())
            await asyncio.sleep(1.2)
            writer.write(body)
            answer = await reader.readline()
            assert b" 200 " in answer, answer

    async def failing_delivery(self) -> str:
        """Make an endpoint that refuses a delivery, and return the delivery's id once it has been tried."""
        wanted = {"url": f"{self.receiver_url}/hook", "events": ["secret.rotated"]}
        made = await self.client.post("/webhooks/endpoints", wanted)
        assert made.status == 201, made.body
        sent = await self.client.post(f"/webhooks/endpoints/{made.body['id']}/test", {})
        assert sent.status in (200, 202), sent.body

        async def tried() -> Any:
            listed = (await self.client.get("/webhooks/deliveries")).body["items"]
            return [one for one in listed if one["endpoint_id"] == made.body["id"] and one["attempts"] > 0]

        [delivery] = await eventually(tried, 60)
        return str(delivery["id"])

    def due(self, delivery: str) -> float:
        """Return when a delivery is to be tried again, by the clock of the test."""
        with closing(sqlite3.connect(self.database, timeout=60)) as database:
            [[due]] = database.execute("SELECT due_at FROM webhook_deliveries WHERE id = ?", (delivery,)).fetchall()
        return time.monotonic() + (due - now()) / MICROSECONDS

    async def chat(self, key: str = "") -> None:
        """Say something to the model, whatever comes of it."""
        who = {"Authorization": f"Bearer {key}"} if key else {}
        await self.client.post("/chat/", {"message": "Is anybody there?"}, **who)


@dataclass
class Moody:
    """A model that is busy three times of four, until it is told to be dear: then it answers, and does not say at
    what price, so that the highest counts."""

    dear: bool = False
    asked: int = 0

    def __call__(self, asked: Asked) -> ModelReply:
        self.asked += 1
        if self.dear:
            return say("That was expensive.", usage=None)
        return say("Yes.", usage=(1000, 1)) if self.asked % 4 == 0 else fail(429)


@asynccontextmanager
async def open_broken(tmp_path: Path) -> AsyncIterator[tuple[Broken, Moody]]:
    moody = Moody()
    async with (
        http_server(Receiver()) as outside,
        open_model_server(script=moody) as model,
        smtp_inbox() as inbox,
        open_pager() as pager,
        contextlib.AsyncExitStack() as stack,
    ):
        settings = {
            "METRICS_TOKEN": TOKEN,
            "EGRESS_ALLOW": f"127.0.0.1:{outside.port}",
            "UNUSUAL_LEARNING_DAYS": "1",
            "UNUSUAL_ACTIONS_PER_HOUR": "1",
            **model.settings,
            "AI_PRICES": f"{MODEL}=60/60",
            "AI_DAILY_BUDGET_USD": "8",
            "CHAT_SESSION_BUDGET_USD": "8",
        }
        gateway = await stack.enter_async_context(
            gateway_process(tmp_path / "gateway", env=settings, args=("--port", str(free_port())))
        )
        habitual = await gateway.new_key("actions:preview", "actions:execute")
        [key_id, *_] = await key_ids(gateway)
        await gateway.stop()
        await _neglect(gateway, key_id)
        await gateway.start()
        await _verified_again(gateway)
        values = hastened() | SPECIAL
        targets = {"relay": [f"127.0.0.1:{gateway.port}"]}
        watch = await stack.enter_async_context(monitors(tmp_path / "watch", pager, inbox.port, values, targets, TOKEN))
        since = time.monotonic()
        client = await stack.enter_async_context(gateway.client())
        thief = await stack.enter_async_context(gateway.client(habitual))
        await eventually(lambda: watch.query("relay_build_info"), 60)
        yield Broken(gateway, client, thief, model, outside.url, pager, values, since), moody


async def _verified_again(gateway: GatewayProcess) -> None:
    """Return once the gateway has verified its log by itself for the second time, some seconds after a start; the
    next time is an hour later."""
    wanted = re.compile(r"^relay_audit_last_verified_timestamp_seconds (\S+)$", re.MULTILINE)
    seen: set[str] = set()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        async def look() -> bool:
            async with session.get(f"{gateway.url}/metrics") as answer:
                seen.update(wanted.findall(await answer.text()))
            return len(seen - {"0.0"}) > 1

        await eventually(look, 60, 0.5)


async def _neglect(gateway: GatewayProcess, key_id: str) -> None:
    """Give the stopped installation a past: a key that fetched something three days ago, a secret of last year, and
    a file that anybody may read."""
    settings = load_settings({**gateway.env, "RELAY_DATA_DIR": str(gateway.data)}, cwd=gateway.home)
    async with open_house(settings) as house:
        await record(house, [began(key_id, "http.get", now() - 3 * DAY)])
    with closing(sqlite3.connect(gateway.data / "relay.db")) as database, database:
        database.execute(_AGED, {"by": -400 * DAY})
    notes = gateway.data / "notes.txt"
    notes.write_text("mine")
    notes.chmod(0o644)


def mend(gateway: GatewayProcess) -> None:
    """Undo what was neglected in the stopped installation."""
    (gateway.data / "notes.txt").unlink()
    with closing(sqlite3.connect(gateway.data / "relay.db")) as database, database:
        database.execute(_AGED, {"by": 400 * DAY})
