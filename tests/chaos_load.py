"""Callers and approvers who never give up, whatever is killed: they ask any replica until one has answered."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.outside import HttpServer, read_request
from tests.process import Answer, GatewayProcess

PATIENCE_SECONDS: Final = 180.0
ANSWER_SECONDS: Final = 30.0
STEP_SECONDS: Final = 4.0
SINK_SECONDS: Final = 1.0
GUARDED_DOMAIN: Final = "guarded.example"
OPEN_DOMAIN: Final = "open.example"
DENIED_SHARE: Final = 0.2
CANCELLED_SHARE: Final = 0.06
ASKED_TWICE_SHARE: Final = 0.2


@dataclass
class Wanted:
    """One step of an order: what the world must see of it, by its marker, and what it must have carried."""

    id: str
    kind: str
    marker: str
    before: str
    guarded: bool


@dataclass
class Order:
    """A run that somebody wants once, under one idempotency key, and the ids of every answer to it."""

    marker: str
    key: str
    body: dict[str, Any]
    steps: dict[str, Wanted]
    to_cancel: bool
    run_ids: set[str] = field(default_factory=set)


class Receipts:
    """The script of a sink: it keeps the request, takes a while, and answers with the marker that it got."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def __call__(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        server.requests.append(request)
        body = receipt(posted(request)["marker"]).encode()
        await asyncio.sleep(self._rng.uniform(0, SINK_SECONDS))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


def posted(request: bytes) -> dict[str, str]:
    """Return the payload of a request that a sink has kept."""
    found: dict[str, str] = json.loads(request.partition(b"\r\n\r\n")[2])
    return found


def receipt(marker: str) -> str:
    """Return what a sink answers to a marker."""
    return f"receipt-{marker}"


def make_order(number: int, key: str, rng: random.Random, open_url: str, guarded_url: str) -> Order:
    """Return an order of an echo and one to three steps that reach the world, each with an earlier one's result."""
    marker = f"o{number}-{rng.getrandbits(32):08x}"
    steps: list[dict[str, Any]] = [{"id": "say", "action": "relay.echo", "params": {"message": marker}}]
    wanted: dict[str, Wanted] = {}
    reference, value = {"$result_of": "say", "pointer": "/message", "as": "text"}, marker
    for place in range(1, rng.randint(2, 4)):
        kind, guarded = rng.choice(("hook", "hook", "mail")), rng.random() < 0.4
        step = Wanted(f"do{place}", kind, f"{marker}.{place}", value, guarded)
        wanted[step.id] = step
        if kind == "hook":
            action, url = "webhook.save", guarded_url if guarded else open_url
            params: dict[str, Any] = {"url": url, "payload": {"marker": step.marker, "before": reference}}
            reference, value = {"$result_of": step.id, "pointer": "/body", "as": "text"}, receipt(step.marker)
        else:
            action, domain = "email.send", GUARDED_DOMAIN if guarded else OPEN_DOMAIN
            params = {"to": [f"{step.marker}@{domain}"], "subject": step.marker, "text": reference}
        steps.append({"id": step.id, "action": action, "params": params, "timeout_seconds": STEP_SECONDS})
    return Order(marker, key, {"steps": steps}, wanted, rng.random() < CANCELLED_SHARE)


def will_approve(seed: int, marker: str) -> bool:
    """Say what every approver thinks of a step, so that whoever is faster decides the same."""
    return random.Random(f"{seed}:{marker}").random() >= DENIED_SHARE


class Door:
    """JSON over HTTP to whichever replica answers. A connection that broke and a 503 lead to another try."""

    def __init__(self, session: aiohttp.ClientSession, servers: Sequence[GatewayProcess]) -> None:
        self._session = session
        self._servers = servers
        self.lost = 0
        self.unavailable = 0

    async def ask(
        self, rng: random.Random, key: str, method: str, path: str, body: Any = None, **headers: str
    ) -> Answer:
        """Return the first answer that is not a 503."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["Authorization"] = f"Bearer {key}"
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            url = rng.choice([server.url for server in self._servers if server.url]) + path
            try:
                async with self._session.request(method, url, json=body, headers=sent) as answer:
                    found = Answer(answer.status, answer.headers, await answer.json(content_type=None))
            except (aiohttp.ClientError, OSError, TimeoutError):
                self.lost += 1
            else:
                if found.status != 503:
                    return found
                self.unavailable += 1
            assert time.monotonic() < until, f"nobody has answered {method} {path}"
            await asyncio.sleep(rng.uniform(0.02, 0.2))


class Load:
    """A bounded number of orders: each :meth:`allow` lets callers place some more."""

    def __init__(self, seed: int, door: Door, agents: Sequence[str], open_url: str, guarded_url: str) -> None:
        self.orders: list[Order] = []
        self.answers: Counter[str] = Counter()
        self._seed = seed
        self._door = door
        self._agents = agents
        self._urls = (open_url, guarded_url)
        self._making = random.Random(f"{seed}:orders")
        self._places = asyncio.Semaphore(0)

    def allow(self, orders: int) -> None:
        for _ in range(orders):
            self._places.release()

    async def caller(self, name: str) -> None:
        """Place orders as long as there is room, and insist on each."""
        rng = random.Random(f"{self._seed}:{name}")
        while True:
            await self._places.acquire()
            key = self._making.choice(self._agents)
            order = make_order(len(self.orders), key, self._making, *self._urls)
            self.orders.append(order)
            await self.place(rng, order)
            if rng.random() < ASKED_TWICE_SHARE:
                await self.place(rng, order)
            if order.to_cancel:
                await asyncio.sleep(rng.uniform(0, 1))
                await self._cancel(rng, order)

    async def place(self, rng: random.Random, order: Order) -> None:
        """Send an order until it is acknowledged."""
        answer = await self._door.ask(rng, order.key, "POST", "/ai/execute", order.body, idempotency_key=order.marker)
        assert answer.status == 202, f"{order.marker}: {answer.status} {answer.body}"
        order.run_ids.add(answer.body["run_id"])

    async def _cancel(self, rng: random.Random, order: Order) -> None:
        for run_id in order.run_ids:
            answer = await self._door.ask(rng, order.key, "POST", f"/ai/jobs/{run_id}/cancel", {})
            assert answer.status in (200, 409), f"{order.marker}: {answer.status} {answer.body}"

    @property
    def idle(self) -> bool:
        """Whether everything that was allowed has been placed and acknowledged."""
        return self._places.locked() and all(order.run_ids for order in self.orders)


class Approver:
    """A person who looks at what waits and decides, again and again."""

    def __init__(self, seed: int, name: str, key: str, door: Door) -> None:
        self.decided: dict[str, str] = {}
        self._seed = seed
        self._rng = random.Random(f"{seed}:{name}")
        self._key = key
        self._door = door

    async def work(self) -> None:
        while True:
            listed = await self._door.ask(self._rng, self._key, "GET", "/approvals?status=pending&limit=100")
            assert listed.status == 200, f"{listed.status} {listed.body}"
            items = listed.body["items"]
            self._rng.shuffle(items)
            for item in items:
                await self._decide(item)
            await asyncio.sleep(self._rng.uniform(0.05, 0.4))

    async def _decide(self, item: dict[str, Any]) -> None:
        how = "approve" if will_approve(self._seed, marker_of(item["params"])) else "deny"
        path = f"/approvals/{item['approval_id']}/{how}"
        answer = await self._door.ask(self._rng, self._key, "POST", path, {"digest": item["digest"]})
        assert answer.status in (200, 409), f"{answer.status} {answer.body}"
        if answer.status == 200:
            self.decided[item["approval_id"]] = how
        else:
            assert answer.body["approval_status"] != "pending", answer.body


def marker_of(params: dict[str, Any]) -> str:
    """Return the marker that a step's parameters carry."""
    return str(params["subject"] if "subject" in params else params["payload"]["marker"])
