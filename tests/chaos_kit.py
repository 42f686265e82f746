"""A fleet under load and fire: three replicas, two workers, one PostgreSQL, one Redis, the world outside."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests import chaos_checks as checks
from tests.chaos_fleet import Fleet, Watch
from tests.chaos_load import ANSWER_SECONDS, GUARDED_DOMAIN, Approver, Door, Load, Receipts
from tests.inbox import Inbox, smtp_inbox
from tests.outside import HttpServer, http_server
from tests.postgres import own_postgres, shared_keys
from tests.process import GatewayProcess, eventually
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess

SERVERS: Final = 3
WORKERS: Final = 2
CALLERS: Final = 6
ORDERS_AT_FIRST: Final = 30
ORDERS_PER_KILL: Final = 5
RESUMED_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 240.0
_MANY: Final = 100_000_000

_POLICIES: Final = """
@id("reads") permit (principal, action in Relay::Action::"effect:read", resource);
@id("open-calls") permit (principal, action == Relay::Action::"webhook.save", resource)
unless {{ context.params.port == {port} }};
@id("open-mails") permit (principal, action == Relay::Action::"email.send", resource)
unless {{ context.recipient_domains.contains("{domain}") }};
@id("agreed") permit (principal, action, resource) when {{ context.approved }};
"""


@dataclass
class Report:
    """What was done, and what came of it."""

    seed: int
    kills: Counter[str]
    database_restarts: int
    runs: Counter[str]
    approvals: Counter[str]
    audited: Counter[str]
    effects: int
    lost_answers: int
    events: int
    waits: list[float]
    waited: str
    seconds: float

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.kills.total()} kills {dict(self.kills)}, {self.database_restarts} restarts of PostgreSQL",
                f"{self.seconds:.0f} s, seed {self.seed}",
                f"{sum(self.runs.values())} runs {dict(self.runs)}, {self.effects} effects, {dict(self.audited)}",
                f"{sum(self.approvals.values())} requests {dict(self.approvals)}",
                f"{self.waited}; {self.lost_answers} requests sent anew; {self.events} audit events",
            )
        )


@dataclass
class Chaos:
    """Everything of one trial. The choices follow from ``seed``; when what happens does not."""

    seed: int
    fleet: Fleet
    door: Door
    inbox: Inbox
    open_sink: HttpServer
    guarded_sink: HttpServer
    load: Load
    approvers: list[Approver]
    budgets: list[dict[str, Any]] = field(default_factory=list)

    async def go(self, kills: int, restarts: int) -> Report:
        """Kill, let everything come to its end, and check it."""
        began, watch = time.monotonic(), Watch(self.fleet)
        self.load.allow(ORDERS_AT_FIRST)
        at = {(number + 1) * kills // (restarts + 1) for number in range(restarts)}
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(watch.work()),
                *(group.create_task(self.load.caller(f"caller-{number}")) for number in range(CALLERS)),
                *(group.create_task(approver.work()) for approver in self.approvers),
            ]
            for number in range(1, kills + 1):
                await self.fleet.kill_one()
                self.load.allow(ORDERS_PER_KILL)
                if number in at:
                    await self.fleet.restart_database()
            await self.fleet.all_up()
            await eventually(self._settled, SETTLED_SECONDS, 0.5)
            for task in tasks:
                task.cancel()
        return await self._checked(watch, began)

    async def _settled(self) -> bool:
        if not self.load.idle:
            return False
        left = "SELECT count(*) FROM runs WHERE finished_at IS NULL"
        working = "SELECT count(*) FROM attempts WHERE status IN ('ready', 'running')"
        query = self.fleet.database.query
        return bool(await asyncio.to_thread(query, f"SELECT ({left}) + ({working})") == [(0,)])

    async def _checked(self, watch: Watch, began: float) -> Report:
        database, orders = self.fleet.database, self.load.orders
        world = checks.World.of(self.inbox, self.open_sink, self.guarded_sink)
        runs: dict[str, str] = dict(database.query("SELECT id, status FROM runs"))
        steps = checks.steps_of(database)
        checks.check_nothing_is_left(database)
        checks.check_runs(orders, runs, steps)
        checks.check_effects(orders, steps, world)
        approvals = checks.check_approvals(self.seed, orders, steps, self.approvers)
        audited = checks.check_audit(database, runs)
        checks.check_budgets(database, self.budgets)
        first = self.fleet.members[0].process
        assert isinstance(first, GatewayProcess)
        verified = await first.verified()
        return Report(
            self.seed,
            self.fleet.kills,
            self.fleet.restarts,
            Counter(runs.values()),
            approvals,
            audited,
            world.seen.total(),
            self.door.lost,
            verified["size"],
            watch.waits,
            watch.summary(),
            time.monotonic() - began,
        )


@asynccontextmanager
async def open_chaos(folder: Path, seed: int) -> AsyncIterator[Chaos]:
    """Start everything, and kill what is left of it at the end."""
    async with AsyncExitStack() as stack:
        database = stack.enter_context(own_postgres())
        redis = stack.enter_context(RedisServer(folder))
        inbox = await stack.enter_async_context(smtp_inbox())
        sinks = [
            await stack.enter_async_context(http_server(Receipts(random.Random(f"{seed}:{name}"))))
            for name in ("open", "guarded")
        ]
        env = {
            "DATABASE_URL": database.url,
            "REDIS_URL": redis.url,
            **shared_keys(),
            "WORK_IN_SERVER": "false",
            "SMTP_URL": f"smtp://127.0.0.1:{inbox.port}",
            "SMTP_FROM": "relay@sender.example",
            "EGRESS_ALLOW": ",".join(f"127.0.0.1:{sink.port}" for sink in sinks),
        }
        servers = [GatewayProcess(_home(folder, f"server-{number}"), env=env) for number in range(SERVERS)]
        workers = [WorkerProcess(_home(folder, f"worker-{number}"), env) for number in range(WORKERS)]
        fleet = Fleet(seed, servers, workers, database)
        stack.push_async_callback(fleet.end)
        await fleet.start()
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        )
        door = Door(session, servers)
        yield await _furnished(seed, fleet, door, inbox, sinks, servers[0])


def _home(folder: Path, name: str) -> Path:
    home = folder / name
    home.mkdir()
    return home


async def _furnished(
    seed: int, fleet: Fleet, door: Door, inbox: Inbox, sinks: list[HttpServer], server: GatewayProcess
) -> Chaos:
    """Set policies and budgets, and make the keys of agents and approvers."""
    rng, admin = random.Random(f"{seed}:admin"), server.first_key
    assert admin is not None
    open_sink, guarded_sink = sinks
    text = _POLICIES.format(port=guarded_sink.port, domain=GUARDED_DOMAIN)
    put = await door.ask(rng, admin, "PUT", "/policies", {"text": text})
    assert put.status == 200, put.body
    budgets = []
    for measure in ("actions", "new_recipients"):
        wish = {"scope": {"workspace": "default"}, "measure": measure, "limit": _MANY}
        budgets.append((await door.ask(rng, admin, "POST", "/budgets", wish)).body)
    agents = [await server.new_key("actions:preview", "actions:execute") for _ in range(2)]
    persons = [await server.new_key("approvals:decide", kind="person") for _ in range(2)]
    load = Load(seed, door, agents, f"{open_sink.url}/hook", f"{guarded_sink.url}/hook")
    approvers = [Approver(seed, f"approver-{number}", key, door) for number, key in enumerate(persons)]
    return Chaos(seed, fleet, door, inbox, open_sink, guarded_sink, load, approvers, budgets)
