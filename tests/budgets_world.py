"""What the tests of budgets and of the kill switch share: actions that show numbers, and attempts without a gate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from relay.catalog import ActionSpec, Catalog, Connector, Rendering
from relay.core.action import Step
from relay.core.clock import now
from relay.core.exposed import Exposed, Sum
from relay.core.ids import new_id
from relay.core.permit import Permit
from relay.core.principal import SCOPES, Principal
from relay.policy.budget_book import BudgetBook, Wish
from relay.policy.budgets import Budgets
from relay.policy.kill_switch import KillSwitch
from relay.store.attempts import AttemptRepository
from relay.store.database import Database
from relay.store.target import Target
from relay.store.vault import Vault
from relay.store.writer import Tx
from tests.keyring import Keyring, open_keyring

REQUEST = "req_test_0001"


class Pay(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: list[str] = []
    hosts: list[str] = []
    amount: int = 0
    fail: bool = False


class Paid(BaseModel):
    done: bool = True


class Shown(Exposed):
    amount: Sum = 0


def show(params: Pay) -> Shown:
    return Shown(recipients=frozenset(params.to), hosts=frozenset(params.hosts), amount=params.amount)


def render(step: Step, client: Any) -> Rendering:
    return Rendering("Pay", {"to": step.params.to})


def connectors(effects: list[Pay] | None = None) -> list[tuple[Connector, Any]]:
    """Return two connectors, ``bank`` and ``post``, whose client is the list of what was done."""
    done = effects if effects is not None else []
    bank, post = Connector("bank"), Connector("post")

    @bank.action("bank.pay", effect="write", render=render, expose=show)
    async def pay(permit: Permit, params: Pay, client: list[Pay]) -> Paid:
        """Pay somebody."""
        from relay.core.effect import EffectRefused

        if params.fail:
            raise EffectRefused("refused", "The bank said no.")
        client.append(params)
        return Paid()

    @bank.action("bank.look", effect="read", render=render, expose=show)
    async def look(permit: Permit, params: Pay, client: list[Pay]) -> Paid:
        """Look at an account."""
        return Paid()

    @post.action("post.send", effect="write", render=render, expose=show)
    async def send(permit: Permit, params: Pay, client: list[Pay]) -> Paid:
        """Send a letter."""
        client.append(params)
        return Paid()

    return [(bank, done), (post, done)]


SERVICES = {"chat": "default"}


def catalog() -> Catalog:
    found = Catalog()
    for connector, client in connectors():
        found.register(connector, client)
    return found


def principal(workspace: str = "default", who: str = "key_1", **more: Any) -> Principal:
    given: dict[str, Any] = {
        "id": who,
        "kind": "agent",
        "workspace_id": workspace,
        "scopes": frozenset(SCOPES),
        "credential_id": who,
        "made_by": (),
        "auth_method": "dev",
        **more,
    }
    return Principal(**given)


def person(workspace: str = "default", who: str = "dev") -> Principal:
    return principal(workspace, who, kind="person")


def row(who: Principal, spec: ActionSpec, attempt_id: str, **more: Any) -> dict[str, Any]:
    """Return an attempt that is under way."""
    return {
        "id": attempt_id,
        "principal_id": who.id,
        "action": spec.name,
        "version": 1,
        "effect": spec.effect,
        "nonce": "n",
        "digest": "0" * 64,
        "status": "running",
        "policy_id": "test",
        "policy_version": 1,
        "approval_id": None,
        "preview_id": None,
        "run_id": None,
        "step_id": None,
        "request_id": REQUEST,
        "fence": 1,
        "lease_until": 2**62,
        "not_before": None,
        "tries": 1,
        "created_at": now(),
        "finished_at": None,
        "duration_ms": None,
        "error_code": None,
        "error_detail": None,
        "error_status": None,
        **more,
    }


@dataclass
class World:
    """One process's budgets and kill switch on a database, and attempts as the gate would make them."""

    ring: Keyring
    catalog: Catalog = field(default_factory=catalog)

    def __post_init__(self) -> None:
        vault = Vault(self.ring.envelopes, self.database.reader)
        self.budgets = Budgets(self.database, vault)
        self.book = BudgetBook(self.database, self.catalog, SERVICES)
        self.kill_switch = KillSwitch(self.database, self.catalog, SERVICES)

    @property
    def database(self) -> Database:
        return self.ring.database

    def spec(self, name: str) -> ActionSpec:
        found = self.catalog.get(name)
        assert found is not None
        return found

    async def begin(
        self, who: Principal, action: str, params: Pay | None = None, *, attempt: str = "", at: int | None = None
    ) -> str:
        """Begin an attempt, or one that was begun before again, and return its id; raises what refuses it."""
        spec, exposed = self.spec(action), show(params or Pay())
        attempt_id = attempt or new_id("att")
        reservation = await self.budgets.plan(who, spec, exposed, attempt_id, now() if at is None else at)
        attempts = AttemptRepository(who.workspace_id)

        def unit(tx: Tx) -> None:
            self.kill_switch.check(tx, who, spec)
            if reservation is not None:
                reservation.check(tx)
            if attempt:
                before = attempts.row(tx, attempt)
                assert before is not None and attempts.begin(
                    tx, attempt, fence=before.fence, at=now(), lease_until=2**62, policy_id="test", policy_version=1
                )
            else:
                attempts.insert(tx, **row(who, spec, attempt_id))
            if reservation is not None:
                reservation.take(tx)

        await self.database.writer.run(unit)
        return attempt_id

    async def end(self, workspace: str, attempt_id: str, status: str, *, again: bool = False) -> None:
        """End an attempt, or have it wait to be tried ``again``; one that failed gives back what it has taken."""
        attempts = AttemptRepository(workspace)

        def unit(tx: Tx) -> None:
            before = attempts.row(tx, attempt_id)
            assert before is not None and before.status == "running"
            if again:
                attempts.make_ready(tx, attempt_id, was="running", fence=before.fence, not_before=0)
            else:
                attempts.finish(tx, attempt_id, fence=before.fence, status=status, at=now(), duration_ms=1)
            if status == "failed":
                Budgets.release(tx, workspace, attempt_id)

        await self.database.writer.run(unit, outcome=True)

    async def limit(self, most: int, measure: str = "actions", workspace: str = "default", **more: Any) -> str:
        """Set a budget and return its id."""
        given: dict[str, Any] = {"scope": "workspace", "subject": workspace, **more}
        wish = Wish(measure=measure, most=most, **given)
        return (await self.book.create(person(workspace), wish, request_id=REQUEST)).budget.id

    async def used(self, workspace: str = "default") -> dict[str, int]:
        return {state.budget.id: state.used for state in await self.book.all(workspace)}


@asynccontextmanager
async def open_world(target: Target) -> AsyncIterator[World]:
    async with open_keyring(target) as ring:
        yield World(ring)
