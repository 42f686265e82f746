"""A Relay under watch and under attack: two gateways, Prometheus, Alertmanager, who is told, and what goes wrong."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from scripts import alerts
from tests.inbox import Inbox, smtp_inbox
from tests.monitoring_kit import default_values, shipped_alerts
from tests.monitors import GROUP_WAIT_SECONDS, SCRAPE_SECONDS, Monitors, free_port, monitors
from tests.outside import HttpServer, http_server, read_request
from tests.pager import Pager, open_pager
from tests.process import Client, GatewayProcess, eventually, gateway_process
from tests.redis_server import RedisServer
from tests.sink import hangs_up

TOKEN = "metrics-0123456789abcdef0123456789abcdef"
LOADED_SECONDS = 45.0
"""What a loaded machine may add to a promise."""
KEPT = {"verification_age", "counter_memory"}
SPECIAL = {"down_for": "8s", "instance_down_for": "5s", "burn_fast_long": "40s", "burn_slow_long": "60s"}
SPECIAL["key_end_notice"] = "16d"  # keys that were made to live for 14 days or less are left out
SEVERITY = {alert.name: alert.severity for alert in shipped_alerts()}
DOORS = {"critical": "pagerduty", "warning": "slack", "info": "program"}
BAD = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\nno way"
NO_MODEL = {
    "OPENAI_API_KEY": "sk-of-nobody-0123456789",  # pragma: allowlist secret
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "AI_MODEL": "nobody",
    "AI_PRICES": "nobody=0/0",
    "AI_FALLBACK_LOCAL": "true",
}
"""A model that is not there, and the local planner in its place for plans, though not for chats."""
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def hastened() -> dict[str, str]:
    """Return the shipped numbers with every wait 3 s, every window 20 s and every age 5 s, but for a few."""
    short = {
        name: "3s" if name.endswith("_for") else "5s" if name.endswith("_age") else "20s"
        for name, value in default_values().items()
        if re.fullmatch(r"(\d+[smhdw])+", value) and name not in KEPT
    }
    return default_values() | short | SPECIAL


def promised(alert: str, values: dict[str, str]) -> float:
    """Return within how many seconds of the cause somebody is told: scrape, window or age, wait, grouping. What is
    old by an age is asked of the database each five seconds.
    """
    waits = {rule.name: rule.rule.get("for") for rule in shipped_alerts()}
    named = {rule.name: rule for rule in _templated(values)}[alert]
    window = 40.0 if "failed_requests" in named.expr else 20.0 if "[" in named.expr else 10.0
    return SCRAPE_SECONDS + window + (named.wait if waits[alert] else 0.0) + 2.0 + GROUP_WAIT_SECONDS


@dataclass(frozen=True)
class Rule:
    name: str
    expr: str
    wait: float


def _templated(values: dict[str, str]) -> list[Rule]:
    files = [yaml.safe_load(text) for text in alerts.render(values).values()]
    found = [rule for file in files for group in file["groups"] for rule in group["rules"] if "alert" in rule]
    return [Rule(rule["alert"], rule["expr"], float(alerts.seconds(rule.get("for", "0s")))) for rule in found]


@dataclass
class Receiver:
    """An HTTP server outside that is well or not."""

    well: bool = False

    async def __call__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await read_request(reader))
        writer.write(GOOD if self.well else BAD)
        await writer.drain()


class Watched:
    """Something that is watched: who is told of it, under which numbers, and after how many seconds of how many."""

    pager: Pager
    values: dict[str, str]
    measured: dict[str, tuple[float, float]]

    async def told(self, alert: str, since: float) -> None:
        """Return once somebody has been told of an alert by its door, within the promise; keep how long it took."""
        door = DOORS[SEVERITY[alert]]
        promise = promised(alert, self.values)
        left = since + promise + LOADED_SECONDS - time.monotonic()
        first = await self.pager.arrived(alert, door, left, after=since)
        self.measured[alert] = (first.at - since, promise)

    async def over(self, alert: str, since: float) -> None:
        """Return once the same door has heard that it is over."""
        door = DOORS[SEVERITY[alert]]
        await self.pager.arrived(alert, door, 60 + LOADED_SECONDS, resolved=True, after=since)

    async def all_told(self, alerts: Mapping[str, float]) -> None:
        """Return once somebody has been told of each, since its cause."""
        async with asyncio.TaskGroup() as group:
            for name, since in alerts.items():
                group.create_task(self.told(name, since))

    async def all_over(self, *alerts: str, since: float) -> None:
        """Return once each has been taken back."""
        async with asyncio.TaskGroup() as group:
            for name in alerts:
                group.create_task(self.over(name, since))


@dataclass
class World(Watched):
    """Everything that runs: the production gateway, a second one, who watches them, who is told."""

    production: GatewayProcess
    second: GatewayProcess
    client: Client
    watch: Monitors
    pager: Pager
    inbox: Inbox
    redis: RedisServer
    receiver: Receiver
    receiver_url: str
    silent_url: str
    values: dict[str, str]
    soon: str
    watched_since: float
    measured: dict[str, tuple[float, float]] = field(default_factory=dict)


@asynccontextmanager
async def open_world(tmp_path: Path) -> AsyncIterator[World]:
    receiver, ports = Receiver(), (free_port(), free_port())
    async with (
        http_server(receiver) as outside,
        http_server(hangs_up) as silent,
        smtp_inbox() as inbox,
        open_pager() as pager,
        contextlib.AsyncExitStack() as stack,
    ):
        (tmp_path / "redis").mkdir()
        redis = stack.enter_context(RedisServer(tmp_path / "redis"))
        settings = {
            "METRICS_TOKEN": TOKEN,
            "REDIS_URL": redis.url,
            "RATE_LIMIT_PLAN_PER_MINUTE": "5",
            "EGRESS_ALLOW": f"127.0.0.1:{outside.port},127.0.0.1:{silent.port}",
            **NO_MODEL,
        }
        production = await stack.enter_async_context(
            gateway_process(tmp_path / "production", env=settings, args=("--port", str(ports[0])))
        )
        second = await stack.enter_async_context(
            gateway_process(
                tmp_path / "second",
                env={"RELAY_ENV": "local", "DEV_AUTH_MODE": "true", "METRICS_TOKEN": TOKEN},
                args=("--port", str(ports[1])),
            )
        )
        soon = await new_key_that_ends(production)
        values = hastened()
        targets = {"relay": [f"127.0.0.1:{port}" for port in ports]}
        watch = await stack.enter_async_context(monitors(tmp_path / "watch", pager, inbox.port, values, targets, TOKEN))
        began = time.monotonic()
        client = await stack.enter_async_context(production.client())
        await eventually(lambda: watch.query("count(relay_build_info) == 2"), 60)  # each has been seen once
        yield World(
            production,
            second,
            client,
            watch,
            pager,
            inbox,
            redis,
            receiver,
            outside.url,
            silent.url,
            values,
            soon,
            began,
        )


async def key_ids(gateway: GatewayProcess) -> list[str]:
    """Return the ids of all keys, newest first."""
    listed = await gateway.command("key", "list", "--json")
    return [item["id"] for item in json.loads(listed.stdout)["items"]]


async def new_key_that_ends(gateway: GatewayProcess) -> str:
    """Make a key that ends within the notice, before anybody looks (keys are read now and then), and return its id."""
    made = await gateway.command(
        "key", "create", "--workspace", "default", "--scope", "audit:read", "--expires", "15", "--quiet"
    )
    assert made.returncode == 0, made.stderr
    return (await key_ids(gateway))[0]


# The attacks. Each goes on until it is cancelled, or has been done when it returns.

Attack = Callable[[], Awaitable[None]]


@asynccontextmanager
async def going_on(*attacks: Attack, pause: float = 0.15) -> AsyncIterator[None]:
    """Repeat each attack until the block ends."""

    async def repeat(attack: Attack) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                await attack()
            await asyncio.sleep(pause)

    tasks = [asyncio.create_task(repeat(attack)) for attack in attacks]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        broken = [one for one in ended if not isinstance(one, asyncio.CancelledError)]
        assert broken == [], broken


class Attacks:
    """What a stranger, a thief, a clumsy caller and a broken world do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.number = 0

    async def wrong_key(self) -> None:
        self.number += 1
        key = f"Bearer relay_sk_live_{self.number:043d}"
        answer = await self.world.client.call("GET", "/actions", Authorization=key)
        assert answer.status == 401, answer.body

    async def too_much(self) -> None:
        answer = await self.world.client.post("/ai/plan", {"prompt": "Send an email to you@example.com saying hello"})
        assert answer.status in (200, 429), answer.body

    async def wrong_signature(self) -> None:
        headers = {"webhook_id": "msg_1", "webhook_timestamp": str(int(time.time())), "webhook_signature": "v1,AAAA"}
        answer = await self.world.client.post("/webhooks/relay", {"type": "x"}, **headers)
        assert answer.status == 401, answer.body

    async def model_does_not_answer(self) -> None:
        answer = await self.world.client.post("/chat/", {"message": "Is anybody there?"})
        assert answer.status == 503 and answer.body["type"].endswith(":model-unavailable"), answer.body

    async def upstream_fails(self) -> None:
        await self.world.client.execute("webhook.save", {"url": f"{self.world.receiver_url}/bad", "payload": 1})

    async def outcome_unknown(self) -> None:
        params = {"url": f"{self.world.silent_url}/gone", "payload": 1}
        assert (await self.world.client.execute("webhook.save", params)).status == 504

    async def revoked_key_used(self) -> None:
        key = await self.world.production.new_key("audit:read")
        key_id = (await key_ids(self.world.production))[0]
        assert (await self.world.client.call("DELETE", f"/keys/{key_id}")).status in (200, 204)
        assert (await self.world.client.call("GET", "/audit", Authorization=f"Bearer {key}")).status == 401

    async def key_leaks(self) -> None:
        key = await self.world.production.new_key("audit:read")
        assert (await self.world.client.post("/keys/report-leak", {"token": key})).status == 202

    async def something_waits(self) -> dict[str, Any]:
        agent = await self.world.production.new_key("actions:preview", "actions:execute")
        params = {"to": ["you@example.org"], "subject": "May I?", "text": "Please."}
        asked = await self.world.client.execute("email.send", params, Authorization=f"Bearer {agent}")
        assert asked.status == 202, asked.body
        [waiting] = (await self.world.client.get("/approvals?status=pending")).body["items"]
        return dict(waiting)

    async def endpoint_fails(self) -> str:
        wanted = {"url": f"{self.world.receiver_url}/hook", "events": ["*"]}
        made = await self.world.client.post("/webhooks/endpoints", wanted)
        assert made.status == 201, made.body
        return str(made.body["id"])

    async def switch(self, to: str) -> None:
        done = await self.world.production.command("kill-switch", to, "--action", "relay.echo")
        assert done.returncode == 0, done.stderr
