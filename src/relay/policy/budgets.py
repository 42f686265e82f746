"""Budgets as the gate sees them: what an attempt would take, what it gives back, what a preview should say."""

from typing import Final

from relay.catalog import ActionSpec
from relay.core.clock import now
from relay.core.exposed import Exposed
from relay.core.principal import Principal
from relay.core.problem import BudgetExhausted
from relay.policy.measures import Demand, day_of, demands, what, whose, written_to
from relay.policy.pseudonyms import Pseudonyms
from relay.policy.reservation import Reservation, crossing
from relay.store.budget_use import BudgetUse
from relay.store.budgets import Budget, BudgetRepository
from relay.store.cache import GenerationCache
from relay.store.database import Database
from relay.store.vault import Vault
from relay.store.writer import Tx

_TEENS: Final = (11, 12, 13)


class Budgets:
    """The budgets of every workspace. What is set is cached, and void within a second of a change anywhere.

    :class:`~relay.store.writer.StoreUnavailable` from any method when the database does not answer: what cannot be
    counted may not run.
    """

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._pseudonyms = Pseudonyms(database, vault)
        self._set: GenerationCache[list[Budget]] = GenerationCache(database.generation)

    async def plan(
        self, principal: Principal, spec: ActionSpec, exposed: Exposed, attempt_id: str, at: int
    ) -> Reservation | None:
        """Return what the attempt reserves, None when there is nothing to count or to remember.

        The UTC day of ``at``, in microseconds, is the one that it counts in.
        """
        found = await self._demands(principal, spec, exposed)
        recipients = await self._written_to(principal, spec, exposed)
        if not found and not recipients:
            return None
        return Reservation(principal, spec, attempt_id, day_of(at), found, recipients)

    @staticmethod
    def release(tx: Tx, workspace_id: str, attempt_id: str) -> None:
        """Give back everything that an attempt has reserved: it failed, nothing happened outside.

        Harmless when there is nothing. Each unit goes back to the day that it was taken of.
        """
        BudgetUse(workspace_id).release(tx, attempt_id)

    async def refused(self, principal: Principal, spec: ActionSpec, problem: BudgetExhausted, request_id: str) -> None:
        """Report that a budget had too little left, once a day and budget; to be called for each such refusal."""
        budget_id, day = problem.extensions["budget"]["id"], day_of(now())
        budget = next((one for one in await self._of(principal.workspace_id) if one.id == budget_id), None)
        if budget is None:
            return
        use = BudgetUse(principal.workspace_id)

        def unit(tx: Tx) -> None:
            before = use.of_day(tx, budget_id, day)
            if before.exhausted or not use.report(tx, budget_id, day, now(), exhausted=True):
                return
            about = crossing(budget, principal, spec.name, day, before.used, exhausted=True, request_id=request_id)
            tx.record(about)

        await self._database.writer.run(unit)

    async def forecast(self, principal: Principal, spec: ActionSpec, exposed: Exposed) -> list[str]:
        """Return a warning for each budget that has too little left for this step now."""
        found = await self._demands(principal, spec, exposed)
        if not found:
            return []
        day, use, reader = day_of(now()), BudgetUse(principal.workspace_id), self._database.reader
        used = await use.read_day(reader, day)
        warnings = []
        for demand in found:
            more = demand.amount or await self._new_members(use, demand, day)
            before = used.get(demand.budget.id, 0)
            if more and before + more > demand.budget.most:
                warnings.append(_warning(demand.budget, before, more))
        return warnings

    async def _new_members(self, use: BudgetUse, demand: Demand, day: int) -> int:
        reader, members = self._database.reader, list(demand.members)
        if demand.budget.measure == "new_recipients":
            known = await use.read_known(reader, members)
            members = [name for name in members if name not in known]
        return len(members) - len(await use.read_members(reader, demand.budget.id, day, members))

    async def _demands(self, principal: Principal, spec: ActionSpec, exposed: Exposed) -> list[Demand]:
        budgets = await self._of(principal.workspace_id)
        if not budgets:
            return []
        pseudonym = await self._pseudonyms.of(principal.workspace_id)
        return demands(budgets, principal, spec, exposed, pseudonym)

    async def _written_to(self, principal: Principal, spec: ActionSpec, exposed: Exposed) -> tuple[str, ...]:
        if spec.effect == "read" or not exposed.recipients:
            return ()
        return written_to(spec, exposed, await self._pseudonyms.of(principal.workspace_id))

    async def _of(self, workspace_id: str) -> list[Budget]:
        found = self._set.get(workspace_id)
        if found is None:
            generation = self._database.generation.current()
            found = await BudgetRepository(workspace_id).all(self._database.reader)
            self._set.put(workspace_id, found, generation)
        return found


def _warning(budget: Budget, before: int, more: int) -> str:
    after = before + more
    if budget.measure == "sum":
        would = f"This takes {more} {what(budget)}, {before} of {budget.most} are used today"
    else:
        would = f"This would be the {_ordinal(after)} of {budget.most} {what(budget)} today"
    return f"{would}; the budget {budget.id} of {whose(budget)} does not allow it."


def _ordinal(number: int) -> str:
    if number % 100 in _TEENS:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
