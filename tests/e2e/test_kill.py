"""Kill -9 at random moments under load: nothing acknowledged is lost, nothing happens twice, the chain holds."""

import asyncio
import json
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from relay.store.target import Target
from tests.inbox import Inbox, smtp_inbox
from tests.outside import OK, HttpServer, http_server
from tests.postgres import shared_keys
from tests.process import Answer, Client, GatewayProcess, eventually, gateway_process

WORKERS = 8
ANSWERS = (0, 40)
KILLED_WHILE_STARTING = 0.1
VERIFY_EVERY = 10
LOOKED_AT_AGAIN = 600

Query = Callable[[str], list[tuple[Any, ...]]]


@dataclass
class Order:
    """One thing that a caller wants done once, under one idempotency key, and every answer that it got."""

    marker: str
    kind: str
    path: str
    body: dict[str, Any]
    answers: list[Answer] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return any(answer.status in (200, 202) for answer in self.answers)


def make_order(number: int, rng: random.Random, hook: str) -> Order:
    marker = f"order-{number}-{rng.getrandbits(32):08x}"
    mail = {"action": "email.send", "params": {"to": ["a@b.example"], "subject": marker, "text": "once, please"}}
    call = {"action": "webhook.save", "params": {"url": hook, "payload": {"marker": marker}}}
    echo = {"action": "relay.echo", "params": {"message": marker}}
    kind = rng.choices(("mail", "hook", "echo", "run"), (4, 3, 2, 1))[0]
    if kind == "run":
        return Order(marker, kind, "/ai/execute", {"steps": [echo, mail, call]})
    return Order(marker, kind, "/actions/execute", {"mail": mail, "hook": call, "echo": echo}[kind])


class Load:
    """Callers who never give up: what was not answered is asked again, and answered things are asked again too."""

    def __init__(self, rng: random.Random, client: Client, hook: str) -> None:
        self.orders: list[Order] = []
        self.unanswered: list[Order] = []
        self.answered = 0
        self._rng = rng
        self._client = client
        self._hook = hook

    async def worker(self) -> None:
        """Send orders until the gateway is gone."""
        while True:
            order = self._next()
            try:
                await self.send(order)
            except (aiohttp.ClientError, ConnectionError):
                self.unanswered.append(order)
                return

    async def until(self, answered: int) -> None:
        """Return once that many requests have been answered, or after a few seconds."""
        until = time.monotonic() + 5
        while self.answered < answered and time.monotonic() < until:
            await asyncio.sleep(0.001)

    def _next(self) -> Order:
        if self.unanswered:
            return self.unanswered.pop()
        if self.orders and self._rng.random() < 0.2:
            answered = self._rng.choice(self.orders)
            if answered.answers:
                return answered
        order = make_order(len(self.orders), self._rng, self._hook)
        self.orders.append(order)
        return order

    async def send(self, order: Order) -> Answer:
        answer = await self._client.post(order.path, order.body, idempotency_key=order.marker)
        order.answers.append(answer)
        self.answered += 1
        expected = {202} if order.kind == "run" else {200, 504}
        assert answer.status in expected, f"{order}: {answer.body}"
        return answer

    async def settle(self) -> None:
        """Have everything answered that is still open, and a part of the rest once more."""
        again = self._rng.sample(self.orders, min(LOOKED_AT_AGAIN, len(self.orders)))
        todo = list({id(order): order for order in (*self.unanswered, *again)}.values())
        self.unanswered.clear()

        async def work() -> None:
            while todo:
                await self.send(todo.pop())

        await asyncio.gather(*(work() for _ in range(WORKERS)))


def check_answers(orders: list[Order]) -> None:
    for order in orders:
        subjects = {answer.body.get("attempt_id") or answer.body.get("run_id") for answer in order.answers}
        assert len(subjects) == 1, f"{order.marker} led to {subjects}"
        if order.kind != "run":
            assert len({answer.status for answer in order.answers}) == 1, order
        results = {json.dumps(answer.body["result"]) for answer in order.answers if answer.status == 200}
        assert len(results) <= 1, order


def check_effects(orders: list[Order], inbox: Inbox, sink: HttpServer, run_steps: Counter[tuple[str, str]]) -> None:
    mails = Counter(mail.header("Subject") for mail in inbox.mails)
    ids = Counter(mail.header("Message-ID") for mail in inbox.mails)
    calls = Counter(json.loads(request.partition(b"\r\n\r\n")[2])["marker"] for request in sink.requests)
    assert not [message_id for message_id, count in ids.items() if count > 1]
    for order in orders:
        seen = {"mail": mails[order.marker], "hook": calls[order.marker]}
        assert max(seen.values()) <= 1, f"{order.marker} happened more than once: {seen}"
        for kind, action in (("mail", "email.send"), ("hook", "webhook.save")):
            done = run_steps[order.marker, action] if order.kind == "run" else order.kind == kind and order.accepted
            assert seen[kind] >= int(done), f"{order.marker} was acknowledged, but never happened"


async def kill_under_load(gateway: GatewayProcess, kills: int, query: Query, lapse: Callable[[], None]) -> None:
    seed, began = int(os.environ.get("TEST_SEED") or time.time_ns() % 2**32), time.monotonic()
    print(f"TEST_SEED={seed}")
    rng = random.Random(seed)
    async with smtp_inbox() as inbox, http_server(OK) as sink:
        gateway.env["SMTP_URL"] = f"smtp://127.0.0.1:{inbox.port}"
        gateway.env["SMTP_FROM"] = "relay@sender.example"
        gateway.env["EGRESS_ALLOW"] = f"127.0.0.1:{sink.port}"
        await gateway.start()
        async with gateway.client() as client:
            load = Load(rng, client, f"{sink.url}/hook")
            verifying: asyncio.Task[Any] | None = None
            for number in range(1, kills + 1):
                if number % VERIFY_EVERY == 0:
                    await (verifying or asyncio.sleep(0))
                    verifying = asyncio.create_task(gateway.verified())
                workers = [asyncio.create_task(load.worker()) for _ in range(WORKERS)]
                await load.until(load.answered + rng.randint(*ANSWERS))
                await asyncio.sleep(rng.uniform(0, 0.01))
                gateway.kill()
                await asyncio.gather(*workers)
                if rng.random() < KILLED_WHILE_STARTING:
                    gateway.spawn()
                    await asyncio.sleep(rng.uniform(0.2, 1.5))
                    gateway.kill()
                lapse()
                born = time.time_ns() // 1000
                await gateway.start()
                await check_restart(load, query, born)
            await (verifying or asyncio.sleep(0))
            await load.settle()
            check_answers(load.orders)
            steps = await ended_runs(load, client)
            check_effects(load.orders, inbox, sink, steps)
            assert query("SELECT count(*) FROM attempts WHERE status = 'running'") == [(0,)]
        found = await gateway.verified()
    counts = Counter(f"{order.kind} {order.answers[-1].status}" for order in load.orders)
    print(f"{kills} kills in {time.monotonic() - began:.0f} s, {found['size']} events, {dict(counts)}")
    assert min(counts[kind] for kind in ("mail 200", "hook 200", "echo 200", "run 202")) > 0


async def check_restart(load: Load, query: Query, born: int) -> None:
    """What was running when the process died is in a definite state, and what was acknowledged is still there."""

    async def nothing_left() -> bool:
        return query(f"SELECT count(*) FROM attempts WHERE status = 'running' AND created_at < {born}") == [(0,)]

    await eventually(nothing_left, 12)
    kept: dict[str, str] = dict(query("SELECT id, status FROM attempts"))
    for order in load.orders:
        for answer in order.answers[-1:]:
            if order.kind != "run":
                status = "succeeded" if answer.status == 200 else "unknown"
                assert kept.get(answer.body["attempt_id"]) == status, order


async def ended_runs(load: Load, client: Client) -> Counter[tuple[str, str]]:
    """Wait until every accepted run has ended; return which of their steps say that they succeeded."""
    done: Counter[tuple[str, str]] = Counter()
    for order in load.orders:
        if order.kind == "run":
            run = await client.run_ended(order.answers[-1].body["run_id"], 45)
            assert run["status"] in ("succeeded", "unknown"), run
            done.update((order.marker, step["action"]) for step in run["steps"] if step["status"] == "succeeded")
            assert {step["status"] for step in run["steps"]} <= {"succeeded", "unknown", "cancelled"}, run
    return done


async def kill_on_sqlite(home: Path, kills: int) -> None:
    async with gateway_process(home, start=False) as gateway:

        def query(sql: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(f"file:{gateway.data}/relay.db?mode=ro", uri=True)) as connection:
                return connection.execute(sql).fetchall()

        await kill_under_load(gateway, kills, query, lambda: None)


@pytest.mark.timeout(900)
async def test_a_hundred_kills_on_sqlite(tmp_path: Path) -> None:
    """Two installations at a time, since most of it is waiting for one processor to start Python."""
    async with asyncio.TaskGroup() as both:
        for number in range(2):
            both.create_task(kill_on_sqlite(tmp_path / str(number), 50))


@pytest.mark.timeout(180)
async def test_ten_kills_on_postgresql(tmp_path: Path, postgres_target: Target) -> None:
    url = postgres_target.url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(postgres_target.conninfo, autocommit=True) as admin:

        def query(sql: str) -> list[tuple[Any, ...]]:
            return admin.execute(sql.encode()).fetchall()

        def lapse() -> None:
            """Let the dead process's leases be over now; a start leaves them alone, as they may be a sibling's."""
            gone = (
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name LIKE 'relay-%' AND datname = current_database()"
            )
            until = time.monotonic() + 10
            while query(gone) != [(0,)]:
                assert time.monotonic() < until, "the dead process's sessions stay"
                time.sleep(0.01)
            admin.execute("UPDATE attempts SET lease_until = 1 WHERE status = 'running'")
            admin.execute("UPDATE runs SET lease_until = 1 WHERE lease_until IS NOT NULL")

        async with gateway_process(tmp_path, env={"DATABASE_URL": url, **shared_keys()}, start=False) as gateway:
            await kill_under_load(gateway, 10, query, lapse)
