"""What one attempt reserves of its budgets, inside the transaction that lets it begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relay.audit.record import event
from relay.catalog import ActionSpec
from relay.core.clock import DAY, MICROSECONDS, now
from relay.core.event import EventDraft
from relay.core.principal import Principal
from relay.core.problem import BudgetExhausted, OverBudget
from relay.policy.measures import NEARLY_PERCENT, Demand, crossed, resets_at, what, whose
from relay.store.budget_use import BudgetUse, DayUse, Hold, take_turns
from relay.store.budgets import Budget
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a demand comes to: what the attempt holds then, and by how much the day's use grows."""

    budget: Budget
    before: DayUse
    more: int
    holds: tuple[Hold, ...]

    @property
    def after(self) -> int:
        return self.before.used + self.more


class Reservation:
    """Made by :meth:`relay.policy.budgets.Budgets.plan`; :meth:`check` and then :meth:`take` belong into one unit.

    The unit may run more than once. What the attempt has taken before and not given back counts for it, so that one
    that is tried again is not counted twice in a day.
    """

    def __init__(
        self,
        principal: Principal,
        spec: ActionSpec,
        attempt_id: str,
        day: int,
        demands: Sequence[Demand],
        recipients: Sequence[str],
    ) -> None:
        self._principal = principal
        self._spec = spec
        self._attempt_id = attempt_id
        self._day = day
        self._demands = demands
        self._recipients = recipients
        self._use = BudgetUse(principal.workspace_id)
        self._charges: list[_Charge] | None = None
        self._unknown: list[str] = []

    def check(self, tx: Tx) -> None:
        """Refuse when a budget has too little left (429), or could never have enough (403). Writes nothing.

        From here to the commit no other process counts, so that what fits now fits when it is taken.
        """
        self._charges = None
        if self._demands:
            take_turns(tx)
        self._unknown = [name for name in self._recipients if not self._use.is_known(tx, name)]
        held = self._use.held(tx, self._attempt_id, self._day) if self._demands else set()
        charges = [self._charge(tx, demand, held) for demand in self._demands]
        for charge in charges:
            self._require_fit(charge)
        self._charges = charges

    def take(self, tx: Tx) -> None:
        """Write what was checked, and report the budgets that this uses up, or nearly."""
        if self._charges is None:
            raise RuntimeError("a reservation is checked before it is taken")
        for charge in self._charges:
            self._use.take(tx, self._attempt_id, self._day, charge.holds)
            self._report(tx, charge)
        noted = self._use.remembered(tx, self._attempt_id) if self._unknown else set()
        if fresh := [name for name in self._unknown if name not in noted]:
            self._use.remember(tx, self._attempt_id, fresh)

    def _charge(self, tx: Tx, demand: Demand, held: set[tuple[str, str]]) -> _Charge:
        budget = demand.budget
        before = self._use.of_day(tx, budget.id, self._day)
        if demand.amount:
            holds = () if (budget.id, "") in held else (Hold(budget.id, "", demand.amount),)
            return _Charge(budget, before, sum(hold.amount for hold in holds), holds)
        members = [name for name in demand.members if (budget.id, name) not in held]
        if budget.measure == "new_recipients":
            members = [name for name in members if name in self._unknown]
        more = sum(not self._use.counts(tx, budget.id, self._day, name) for name in members)
        return _Charge(budget, before, more, tuple(Hold(budget.id, name, 1) for name in members))

    def _require_fit(self, charge: _Charge) -> None:
        budget, used = charge.budget, charge.before.used
        if not charge.more or charge.after <= budget.most:
            return
        about = {
            "id": budget.id,
            "measure": budget.measure,
            "field": budget.field or None,
            "limit": budget.most,
            "used": used,
            "resets_at": resets_at(self._day),
        }
        rule = f"The budget {budget.id} allows {whose(budget)} {budget.most} {what(budget)} a day"
        if charge.more > budget.most:
            raise OverBudget(f"{rule}, and this alone takes {charge.more}.", budget=about)
        left = (self._day + 1) * DAY - now()
        raise BudgetExhausted(
            f"{rule}: {used} are used, and this takes {charge.more} more.",
            retry_after=-(-max(left, 0) // MICROSECONDS),
            budget=about,
        )

    def _report(self, tx: Tx, charge: _Charge) -> None:
        budget, after = charge.budget, charge.after
        if not charge.more:
            return
        exhausted = crossed(budget.most, 100, after)
        if exhausted and not charge.before.exhausted:
            self._report_once(tx, budget, after, exhausted=True)
        elif not exhausted and crossed(budget.most, NEARLY_PERCENT, after) and not charge.before.nearly_used:
            self._report_once(tx, budget, after, exhausted=False)

    def _report_once(self, tx: Tx, budget: Budget, used: int, *, exhausted: bool) -> None:
        if self._use.report(tx, budget.id, self._day, now(), exhausted=exhausted):
            tx.record(crossing(budget, self._principal, self._spec.name, self._day, used, exhausted=exhausted))


def crossing(
    budget: Budget, principal: Principal, action: str, day: int, used: int, *, exhausted: bool, request_id: str = ""
) -> EventDraft:
    """Return the event that says how much of a budget is used."""
    about: dict[str, Any] = {
        "budget_id": budget.id,
        "scope": {budget.scope: budget.subject},
        "connector": budget.connector or None,
        "action": budget.action or None,
        "measure": budget.measure,
        "field": budget.field or None,
        "limit": budget.most,
        "used": used,
        "resets_at": resets_at(day),
    }
    return event(
        "policy:budget:exhausted" if exhausted else "policy:budget:nearly_used",
        workspace_id=budget.workspace_id,
        principal=principal.id,
        request_id=request_id,
        target=budget.id,
        action=action,
        details=about,
        notice=about,
    )
