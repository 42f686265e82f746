"""Setting budgets and looking at them, on behalf of a principal and within its workspace."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from relay.audit.record import event
from relay.catalog import Catalog
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict, Invalid, NotFound
from relay.policy.actors import Services, require_key, require_living, require_person
from relay.policy.measures import day_of, resets_at, summed_fields
from relay.store.budget_use import BudgetUse
from relay.store.budgets import Budget, BudgetRepository, BudgetScope, Measure
from relay.store.database import Database
from relay.store.writer import Tx, Unit

T = TypeVar("T")

MAX_BUDGETS: Final = 200
MAX_LIMIT: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Wish:
    """A budget that somebody wants: as :class:`~relay.store.budgets.Budget`, before it has been looked at."""

    scope: BudgetScope
    subject: str
    measure: Measure
    most: int
    connector: str = ""
    action: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget and what is used of it in the current UTC day, which ends at ``resets_at`` (RFC 3339)."""

    budget: Budget
    used: int
    resets_at: str


class BudgetBook:
    """The budgets that are set. Changes hold in this process when a call returns, within a second in every other.

    ``services`` are scopes by their ids, as keys are.
    """

    def __init__(self, database: Database, catalog: Catalog, services: Services) -> None:
        self._database = database
        self._catalog = catalog
        self._services = services
        self._running: set[asyncio.Task[Any]] = set()

    async def all(self, workspace_id: str) -> list[BudgetState]:
        """Return a workspace's budgets, oldest first."""
        budgets = await BudgetRepository(workspace_id).all(self._database.reader)
        day = day_of(now())
        used = await BudgetUse(workspace_id).read_day(self._database.reader, day)
        return [BudgetState(budget, used.get(budget.id, 0), resets_at(day)) for budget in budgets]

    async def create(self, actor: Principal, wish: Wish, *, request_id: str) -> BudgetState:
        """Set a new budget; it counts from now on.

        403 unless a person asks; 404 for another workspace's scope; 409 when there is one of the same kind
        (``budget_id``), or 200 of them; 422 for an action, connector or field that does not exist.
        """
        require_person(actor, "set budgets")
        self._require_sense(actor, wish)
        moment = now()
        budget = Budget(
            id=new_id("bud"),
            workspace_id=actor.workspace_id,
            scope=wish.scope,
            subject=wish.subject,
            connector=wish.connector,
            action=wish.action,
            measure=wish.measure,
            field=wish.field,
            most=wish.most,
            created_by=actor.id,
            created_at=moment,
        )
        repository = BudgetRepository(actor.workspace_id)

        def unit(tx: Tx) -> None:
            require_living(tx, actor, moment)
            if wish.scope == "key":
                require_key(tx, actor.workspace_id, wish.subject, self._services)
            if (twin := repository.twin_of(tx, budget)) is not None:
                raise Conflict("There is a budget of this kind; change its limit.", budget_id=twin)
            if repository.count(tx) >= MAX_BUDGETS:
                raise Conflict(f"A workspace has at most {MAX_BUDGETS} budgets.")
            repository.add(tx, budget)
            _note(tx, "created", actor, budget, request_id)

        await self._change(unit)
        return BudgetState(budget, 0, resets_at(day_of(moment)))

    async def change(self, actor: Principal, budget_id: str, most: int, *, request_id: str) -> BudgetState:
        """Give a budget another limit; what is used today stays used. 403 unless a person asks, 404 for no budget."""
        require_person(actor, "change budgets")
        repository, moment = BudgetRepository(actor.workspace_id), now()

        def unit(tx: Tx) -> BudgetState:
            require_living(tx, actor, moment)
            before = _found(repository.find(tx, budget_id))
            day = day_of(moment)
            used = BudgetUse(actor.workspace_id).of_day(tx, budget_id, day).used
            after = replace(before, most=most)
            if after != before:
                repository.set_most(tx, budget_id, most)
                _note(tx, "changed", actor, after, request_id, limit_before=before.most)
            return BudgetState(after, used, resets_at(day))

        return await self._change(unit)

    async def remove(self, actor: Principal, budget_id: str, *, request_id: str) -> Budget:
        """Remove a budget and what it has counted. 403 unless a person asks, 404 for no budget."""
        require_person(actor, "remove budgets")
        repository, moment = BudgetRepository(actor.workspace_id), now()

        def unit(tx: Tx) -> Budget:
            require_living(tx, actor, moment)
            budget = _found(repository.find(tx, budget_id))
            repository.remove(tx, budget_id)
            _note(tx, "removed", actor, budget, request_id)
            return budget

        return await self._change(unit)

    def _require_sense(self, actor: Principal, wish: Wish) -> None:
        if wish.scope == "workspace" and wish.subject != actor.workspace_id:
            raise NotFound("There is no such workspace.")
        if wish.connector and wish.connector not in {spec.connector for spec in self._catalog}:
            raise _invalid("/connector", "There is no connector of this name.")
        if wish.action and self._catalog.get(wish.action) is None:
            raise _invalid("/action", "There is no action of this name.")
        bounded = [
            spec for spec in self._catalog if wish.connector in ("", spec.connector) and wish.action in ("", spec.name)
        ]
        if not bounded:
            raise _invalid("/action", "This action belongs to another connector.")
        if (wish.measure == "sum") != bool(wish.field):
            raise _invalid("/field", "A sum names the field that it adds up; no other measure does.")
        if wish.field and not any(wish.field in summed_fields(spec.exposed) for spec in bounded):
            raise _invalid("/field", "None of these actions has a field of this name that budgets can add up.")

    async def _change(self, unit: Unit[T]) -> T:
        # A caller that hangs up must not leave this process with a cache of what was set before.
        task = asyncio.create_task(self._write_and_void(unit))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _write_and_void(self, unit: Unit[T]) -> T:
        try:
            return await self._database.writer.run(unit)
        finally:  # also when it failed: the change may have become durable without an answer
            self._database.generation.changed()


def _found(budget: Budget | None) -> Budget:
    if budget is None:
        raise NotFound("There is no such budget in this workspace.")
    return budget


def _invalid(pointer: str, message: str) -> Invalid:
    return Invalid(message, errors=[{"pointer": pointer, "message": message}])


def _note(tx: Tx, what: str, actor: Principal, budget: Budget, request_id: str, **more: Any) -> None:
    tx.record(
        event(
            f"policy:budget:{what}",
            workspace_id=budget.workspace_id,
            principal=actor.id,
            request_id=request_id,
            target=budget.id,
            details={
                "scope": {budget.scope: budget.subject},
                "connector": budget.connector or None,
                "action": budget.action or None,
                "measure": budget.measure,
                "field": budget.field or None,
                "limit": budget.most,
                **more,
            },
        )
    )
