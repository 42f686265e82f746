"""A small house for tests of plans and runs: a real database, real keys and gate, and a connector with a script."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import uvicorn
from pydantic import BaseModel, ConfigDict, JsonValue, StringConstraints

from relay.audit.record import Recorder
from relay.catalog import ActionSpec, Catalog, Connector, Rendering
from relay.core.action import Step
from relay.core.clock import DAY, HOUR
from relay.core.permit import Permit
from relay.core.plan import PlanStep, Proposal
from relay.core.principal import Principal
from relay.core.streams import Places
from relay.crypto.envelope import Envelopes
from relay.gate.admit import Gate
from relay.gate.authenticate import Authenticate
from relay.gate.checks import Checks
from relay.gate.parts import GateParts, Lifetimes
from relay.gate.perform import Performer
from relay.identity.api_keys import ApiKeys
from relay.identity.operator import operator
from relay.llm.messages import Payer
from relay.policy.budgets import Budgets
from relay.policy.kill_switch import KillSwitch
from relay.policy.recorded import Recorded
from relay.queue.choose import open_queue
from relay.queue.protocol import Queue
from relay.runs.plans import Plans
from relay.runs.service import Order, Runs, RunState
from relay.runs.steps import StepDraft
from relay.store.database import Database
from relay.store.target import Target
from relay.store.vault import Vault
from relay.surface.application import build_application
from relay.web.api.ai import ai_routes
from tests.approvals_kit import intake
from tests.limits_kit import NoLimits, action_limits
from tests.policies import NOTHING_DESTRUCTIVE, cedar

KEK = bytes(range(32))
PATIENCE = 10.0

test_connector = Connector("test")


class Say(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1)]
    to: Annotated[str, StringConstraints(pattern=r"^[^@]+@[^@]+$")] | None = None
    data: JsonValue = None
    password: str = ""


class Said(BaseModel):
    text: str
    status: int
    data: JsonValue


@dataclass
class World:
    """The outside: what arrived there, in order, and what it does for a given text."""

    calls: list[Say] = field(default_factory=list)
    script: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [call.text for call in self.calls]

    def hold(self, text: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Keep the call with that text waiting; return the events that it has begun and that it may go on."""
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            await go_on.wait()

        self.script[text] = wait
        return begun, go_on

    def fail(self, text: str, error: Exception) -> None:
        async def refuse() -> None:
            raise error

        self.script[text] = refuse


def _render(step: Step, client: World) -> Rendering:
    return Rendering(summary=f"Say {step.params.text}.", body={"text": step.params.text})


def _redact(params: Say) -> dict[str, Any]:
    return {**params.model_dump(mode="json"), "password": "***" if params.password else ""}


async def _say(params: Say, client: World) -> Said:
    client.calls.append(params)
    if params.text in client.script:
        await client.script[params.text]()
    return Said(text=params.text.upper(), status=200, data=params.data)


@test_connector.action("test.say", effect="write", render=_render, redact=_redact, timeout=20.0)
async def say(permit: Permit, params: Say, client: World) -> Said:
    """Say something."""
    return await _say(params, client)


@test_connector.action("test.erase", effect="destructive", render=_render)
async def erase(permit: Permit, params: Say, client: World) -> Said:
    """Erase something."""
    return await _say(params, client)


class ScriptedPlanner:
    """Proposes what it was told to."""

    name = "scripted"

    def __init__(self) -> None:
        self.proposal = Proposal("", (), 0.0, "nothing to do", self.name)

    def propose_steps(self, *steps: PlanStep) -> None:
        self.proposal = Proposal("do it", steps, 0.9, "as asked", self.name)

    async def propose(
        self, prompt: str, context: dict[str, Any] | None, actions: Sequence[ActionSpec], payer: Payer
    ) -> Proposal:
        return self.proposal


@dataclass
class RunsHouse:
    database: Database
    vault: Vault
    api_keys: ApiKeys
    parts: GateParts
    planner: ScriptedPlanner
    plans: Plans
    queue: Queue
    runs: Runs
    world: World

    @property
    def gate(self) -> Performer:
        return self.parts.performer

    async def key(self, workspace: str = "default", scopes: Sequence[str] = ("developer",)) -> tuple[Principal, str]:
        """Make a key; return whom it stands for, and its text."""
        _, text = await self.api_keys.create(
            operator(), workspace=workspace, kind="agent", scopes=scopes, request_id="req_test_key"
        )
        principal = await self.api_keys.authenticate(text)
        assert principal is not None
        return principal, text

    async def revoke(self, principal: Principal) -> None:
        await self.api_keys.revoke(operator(), principal.id, request_id="req_test_revoke")

    async def start_run(self, principal: Principal, *steps: StepDraft, key: str | None = None) -> str:
        order = Order(request_id="req_test_run", steps=steps, idempotency_key=key)
        return (await self.runs.execute(principal, order))[0]

    async def until(self, principal: Principal, run_id: str, *statuses: str) -> RunState:
        """Return the run as soon as it has one of these statuses."""
        async with asyncio.timeout(PATIENCE):
            while True:
                state = await self.runs.show(principal, run_id)
                if state.run.status in statuses:
                    return state
                await asyncio.sleep(0.01)

    async def ended(self, principal: Principal, run_id: str) -> RunState:
        return await self.until(principal, run_id, "succeeded", "failed", "cancelled", "unknown")


def said(text: Any, **more: Any) -> StepDraft:
    return StepDraft("test.say", {"text": text, **more})


def statuses(state: RunState) -> list[str]:
    return [step.status for step in state.steps]


@asynccontextmanager
async def runs_house(
    target: Target,
    world: World | None = None,
    *,
    running: bool = True,
    sole_process: bool | None = None,
    plan_ttl: int = HOUR,
    idempotency_ttl: int = DAY,
    lease_seconds: float = 30.0,
    grace: float = 5.0,
    policy: str = NOTHING_DESTRUCTIVE,
) -> AsyncIterator[RunsHouse]:
    """Open a house on a database; ``running`` says whether it works on runs."""
    envelopes = Envelopes.of(KEK)
    database = Database(target, Recorder(envelopes).finish)
    await database.start()
    try:
        house = await _built(database, envelopes, world or World(), plan_ttl, idempotency_ttl, lease_seconds, policy)
        sole = target.kind == "sqlite" if sole_process is None else sole_process
        if running:
            await house.parts.sweep.start(sole_process=sole)
            await house.queue.start()
            await house.parts.dispatch.start()
            await house.runs.start(sole_process=sole)
        try:
            yield house
        finally:
            if running:
                await house.parts.dispatch.stop()
                await house.runs.stop()
                await house.queue.stop(grace)
                await house.parts.sweep.stop()
            await house.gate.attempts.stop()
            await house.api_keys.stop()
    finally:
        await database.stop()


async def _built(
    database: Database,
    envelopes: Envelopes,
    world: World,
    plan_ttl: int,
    idempotency_ttl: int,
    lease_seconds: float,
    policies: str,
) -> RunsHouse:
    vault = Vault(envelopes, database.reader)
    api_keys = ApiKeys(database, envelopes, "test")
    await api_keys.start()
    catalog = Catalog()
    catalog.register(test_connector, world)
    queue = open_queue(database.target, 4)
    checks = Checks(KillSwitch(database, catalog, {}), Budgets(database, vault), Recorded(vault, 30 * DAY))
    lifetimes = Lifetimes(idempotency=idempotency_ttl)
    policy = cedar(policies, catalog)
    parts = GateParts(
        database,
        vault,
        catalog,
        policy,
        api_keys,
        checks,
        action_limits(),
        queue,
        intake(database, vault, catalog),
        lifetimes,
    )
    planner = ScriptedPlanner()
    plans = Plans(database, vault, parts.performer, planner, ttl=plan_ttl)
    runs = Runs(
        database,
        vault,
        parts.performer,
        api_keys,
        plans,
        queue,
        retention=30 * DAY,
        idempotency_ttl=idempotency_ttl,
        lease_seconds=lease_seconds,
        sweep_seconds=0.05,
    )
    return RunsHouse(database, vault, api_keys, parts, planner, plans, queue, runs, world)


class _Failures:
    def count(self, *, reason: str, route: str, client: str) -> None: ...


@asynccontextmanager
async def served(house: RunsHouse, *, streams: int = 5) -> AsyncIterator[str]:
    """Serve the routes of plans and runs over a real socket; give the base URL."""
    gate = Gate(Authenticate(house.api_keys, _Failures()), NoLimits())
    routes = ai_routes(house.plans, house.runs, house.api_keys, Places(streams))
    _, app = build_application([routes], gate.admit, body_limit=512 * 1024, body_seconds=5)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        house.runs.close_streams()
        server.should_exit = True
        await task
        listener.close()
