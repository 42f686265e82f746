"""What a step takes of which budgets. Pure: no clock, no database."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from relay.catalog import ActionSpec
from relay.core.clock import DAY, iso
from relay.core.exposed import Exposed
from relay.core.principal import Principal
from relay.store.budgets import Budget

NEARLY_PERCENT: Final = 80

Pseudonym = Callable[[str, str], str]
"""From a kind and a name to the pseudonym that is stored."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a step takes of a budget: an amount, or pseudonyms of members, each of which counts once a day."""

    budget: Budget
    amount: int = 0
    members: tuple[str, ...] = ()


def day_of(at: int) -> int:
    """Return the number of the UTC day since the epoch."""
    return at // DAY


def resets_at(day: int) -> str:
    """Return when a UTC day ends, in RFC 3339."""
    return iso((day + 1) * DAY)


def summed_fields(exposed: type[Exposed]) -> frozenset[str]:
    """Return the fields of a model that budgets can add up: those marked with :data:`~relay.core.exposed.BUDGET`."""
    found = set()
    for name, info in exposed.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("budget") is True:
            found.add(name)
    return frozenset(found)


def applies(budget: Budget, principal: Principal, spec: ActionSpec) -> bool:
    """Say whether a budget bounds this action of this principal. A key's holds for all that the key made."""
    if budget.workspace_id != principal.workspace_id:
        return False
    if budget.scope == "key" and budget.subject not in (principal.id, principal.credential_id, *principal.made_by):
        return False
    if budget.measure == "new_recipients" and spec.effect == "read":
        return False
    return budget.connector in ("", spec.connector) and budget.action in ("", spec.name)


def written_to(spec: ActionSpec, exposed: Exposed, pseudonym: Pseudonym) -> tuple[str, ...]:
    """Return the pseudonyms of those that a step writes to, in order; none for a read."""
    if spec.effect == "read":
        return ()
    return tuple(sorted(pseudonym("recipient", name) for name in exposed.recipients))


def demands(
    budgets: Iterable[Budget], principal: Principal, spec: ActionSpec, exposed: Exposed, pseudonym: Pseudonym
) -> list[Demand]:
    """Return what a step would take of each budget that bounds it, in the order of their ids; nothing is left out.

    Among the members of a budget of new recipients are all recipients: who is new is for the transaction to see.
    """
    found = []
    for budget in sorted(budgets, key=lambda budget: budget.id):
        if not applies(budget, principal, spec):
            continue
        demand = _demand(budget, spec, exposed, pseudonym)
        if demand.amount or demand.members:
            found.append(demand)
    return found


def _demand(budget: Budget, spec: ActionSpec, exposed: Exposed, pseudonym: Pseudonym) -> Demand:
    if budget.measure == "actions":
        return Demand(budget, amount=1)
    if budget.measure == "sum":
        marked = budget.field in summed_fields(type(exposed))
        return Demand(budget, amount=getattr(exposed, budget.field) if marked else 0)
    if budget.measure == "hosts":
        return Demand(budget, members=tuple(sorted(pseudonym("host", name) for name in exposed.hosts)))
    return Demand(budget, members=written_to(spec, exposed, pseudonym))


def crossed(most: int, percent: int, used: int) -> bool:
    """Say whether so much is used."""
    return used * 100 >= most * percent


def whose(budget: Budget) -> str:
    """Return whom a budget is for, in words."""
    subject = f"key {budget.subject}" if budget.scope == "key" else "this workspace"
    narrowed = budget.action or budget.connector
    return f"{subject} through {narrowed}" if narrowed else subject


def what(budget: Budget) -> str:
    """Return what a budget counts, in words that follow a number."""
    if budget.measure == "sum":
        return f"of {budget.field}"
    return {"actions": "actions", "new_recipients": "new recipients", "hosts": "hosts"}[budget.measure]
