"""Budgets: what a workspace or a key may use in a UTC day, and what it has."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from relay.core.access import Access
from relay.core.principal import Scope
from relay.policy.budget_book import MAX_LIMIT, BudgetBook, BudgetState, Wish
from relay.store.budgets import BudgetScope, Measure
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes

_BODY_LIMIT: Final = 16 * KIB
# What ids and names are made of; PostgreSQL takes no NUL in text.
_VISIBLE: Final = r"^[!-~]+$"
_MANAGE: Final[frozenset[Scope]] = frozenset({"policies:manage"})

_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=_VISIBLE)]
_Limit = Annotated[int, Field(strict=True, ge=0, le=MAX_LIMIT, description="How much may be used in a UTC day")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetSubject(_In):
    """Whose use is counted: the caller's workspace, or one of its keys together with every key that it made."""

    workspace: _Name | None = None
    key: _Name | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "BudgetSubject":
        if (self.workspace is None) == (self.key is None):
            raise ValueError("name either a workspace or a key")
        return self

    def named(self) -> tuple[BudgetScope, str]:
        """Return the kind and the id."""
        return ("workspace", self.workspace) if self.workspace is not None else ("key", self.key or "")


class CreateBudget(_In):
    """A new budget. ``connector`` and ``action`` narrow it; ``field`` is what a ``sum`` adds up."""

    scope: BudgetSubject
    measure: Annotated[Measure, Field(examples=["actions"])]
    limit: _Limit
    connector: Annotated[str, Field(min_length=1, max_length=200, pattern=_VISIBLE, examples=["email"])] | None = None
    action: Annotated[str, Field(min_length=1, max_length=200, pattern=_VISIBLE, examples=["email.send"])] | None = None
    field: Annotated[str, Field(min_length=1, max_length=200, pattern=_VISIBLE, examples=["amount"])] | None = None


class ChangeBudget(_In):
    """Another limit for a budget; what is used stays used."""

    limit: _Limit


class BudgetItem(BaseModel):
    """A budget, and what is used of it in the current UTC day."""

    id: str
    scope: dict[str, str]
    connector: str | None
    action: str | None
    measure: Measure
    field: str | None
    limit: int
    used: int
    resets_at: str


class BudgetList(BaseModel):
    """The workspace's budgets, oldest first."""

    items: list[BudgetItem]


class RemovedBudget(BaseModel):
    """A budget that does not hold any more."""

    id: str


def budgets_routes(book: BudgetBook) -> Routes:
    """Return the routes of budgets."""
    routes = Routes()

    @routes.get("/budgets", access=_access("list"), summary="List budgets")
    async def list_budgets(call: Call) -> BudgetList:
        """Return every budget of the caller's workspace with what is used of it today (UTC)."""
        return BudgetList(items=[_item(state) for state in await book.all(call.principal.workspace_id)])

    @routes.post(
        "/budgets", access=_access("create"), body_limit=_BODY_LIMIT, status_code=201, summary="Set a new budget"
    )
    async def create_budget(call: Call, body: CreateBudget) -> BudgetItem:
        """Set a budget; it counts from now on. Only a person can."""
        scope, subject = body.scope.named()
        wish = Wish(
            scope=scope,
            subject=subject,
            measure=body.measure,
            most=body.limit,
            connector=body.connector or "",
            action=body.action or "",
            field=body.field or "",
        )
        return _item(await book.create(call.principal, wish, request_id=call.request_id))

    @routes.put(
        "/budgets/{budget_id}", access=_access("change"), body_limit=_BODY_LIMIT, summary="Change a budget's limit"
    )
    async def change_budget(call: Call, budget_id: str, body: ChangeBudget) -> BudgetItem:
        """Replace the limit: it holds here when this is answered, within a second in every other process."""
        return _item(await book.change(call.principal, budget_id, body.limit, request_id=call.request_id))

    @routes.delete("/budgets/{budget_id}", access=_access("remove"), summary="Remove a budget")
    async def remove_budget(call: Call, budget_id: str) -> RemovedBudget:
        """Remove a budget and what it has counted. Only a person can."""
        return RemovedBudget(id=(await book.remove(call.principal, budget_id, request_id=call.request_id)).id)

    return routes


def _access(what: str) -> Access:
    return Access("bearer", _MANAGE, (), f"api:budgets:{what}")


def _item(state: BudgetState) -> BudgetItem:
    budget = state.budget
    view: dict[str, Any] = {
        "id": budget.id,
        "scope": {budget.scope: budget.subject},
        "connector": budget.connector or None,
        "action": budget.action or None,
        "measure": budget.measure,
        "field": budget.field or None,
        "limit": budget.most,
        "used": state.used,
        "resets_at": state.resets_at,
    }
    return BudgetItem(**view)
