"""What an intent's transaction looks at and writes besides the attempt: kill switch, budgets, the recorded decision."""

from dataclasses import dataclass

from relay.catalog import ActionSpec
from relay.core.principal import Principal
from relay.core.problem import BudgetExhausted
from relay.gate.ask import Intent
from relay.policy.budgets import Budgets
from relay.policy.kill_switch import KillSwitch
from relay.policy.recorded import Prepared, Recorded
from relay.policy.reservation import Reservation
from relay.policy.stops import problem_of
from relay.store.decisions import DecisionKind
from relay.store.kill_switch import Stop
from relay.store.writer import Tx


class Checks:
    """Prepares, outside the transaction, what has to happen inside."""

    def __init__(self, kill_switch: KillSwitch, budgets: Budgets, recorded: Recorded) -> None:
        self._kill_switch = kill_switch
        self._budgets = budgets
        self._recorded = recorded

    async def stopped(self, principal: Principal, spec: ActionSpec) -> Stop | None:
        """Return the kill switch that stops this, None when there is none. May be a second behind other processes."""
        return await self._kill_switch.stopped(principal, spec)

    async def require_running(self, principal: Principal, spec: ActionSpec) -> None:
        """Refuse (403) what a kill switch stops, before anything is counted against it."""
        stop = await self.stopped(principal, spec)
        if stop is not None:
            raise problem_of(stop)

    async def warnings(self, principal: Principal, spec: ActionSpec, params: object) -> list[str]:
        """Return what a preview should say about budgets."""
        return await self._budgets.forecast(principal, spec, spec.expose(params))

    async def prepare(self, intent: Intent, attempt_id: str, at: int) -> "Check":
        """Return the check of one attempt that is about to begin."""
        exposed = intent.spec.expose(intent.step.params)
        reservation = await self._budgets.plan(intent.principal, intent.spec, exposed, attempt_id, at)
        record = self.record(intent, at)
        return Check(self._kill_switch, intent, attempt_id, reservation, record)

    def admission(self, intent: Intent, attempt_id: str, at: int) -> "Check":
        """Return the check of an attempt that is going to wait: budgets are charged when it begins."""
        return Check(self._kill_switch, intent, attempt_id, None, self.record(intent, at))

    def record(self, intent: Intent, at: int, kind: DecisionKind = "execute") -> Prepared | None:
        """Return the record of a decision, None when none is kept."""
        return self._recorded.prepare(intent.principal, intent.spec, intent.decision, kind, at)

    async def refused(self, intent: Intent, problem: BudgetExhausted) -> None:
        """Report that a budget had too little left."""
        await self._budgets.refused(intent.principal, intent.spec, problem, intent.ask.request_id)

    @staticmethod
    def give_back(tx: Tx, workspace_id: str, attempt_id: str) -> None:
        """Release what an attempt has reserved: nothing happened outside."""
        Budgets.release(tx, workspace_id, attempt_id)


@dataclass(frozen=True, slots=True)
class Check:
    """What one attempt's transaction has to look at before its first write, and to write.

    Locks are taken in one order everywhere, so that no two transactions wait for one another: the kill switch, the
    run, the attempt, budgets, places.
    """

    _kill_switch: KillSwitch
    _intent: Intent
    _attempt_id: str
    _reservation: Reservation | None
    _record: Prepared | None

    @property
    def reserves(self) -> bool:
        """Say whether there is anything to give back when the attempt fails."""
        return self._reservation is not None

    def running(self, tx: Tx) -> None:
        """Refuse what the kill switch stops (403); the first thing that a unit does."""
        self._kill_switch.check(tx, self._intent.principal, self._intent.spec)

    def affordable(self, tx: Tx) -> None:
        """Refuse what no budget allows (429, 403)."""
        if self._reservation is not None:
            self._reservation.check(tx)

    def take(self, tx: Tx) -> None:
        """Reserve, and keep what the decision was made upon."""
        if self._reservation is not None:
            self._reservation.take(tx)
        if self._record is not None:
            self._record.put(tx, self._attempt_id)
