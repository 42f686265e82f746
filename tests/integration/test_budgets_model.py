"""Budgets against a model in plain Python: any order of beginnings, ends, retries and days, on both stores."""

import asyncio
import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.clock import DAY
from relay.core.principal import Principal
from relay.core.problem import BudgetExhausted, OverBudget
from relay.store.budget_use import BudgetUse
from relay.store.target import Target
from tests.budgets_world import Pay, World, open_world, principal

PEOPLE = [f"p{number}@example.com" for number in range(4)]
HOSTS = ["a.example", "b.example", "c.example"]
ACTIONS = ["bank.pay", "bank.look", "post.send"]
FIRST_DAY = 20_000
MAKERS = {"key_a": (), "key_b": ("key_a",), "key_c": ()}


@dataclass(frozen=True)
class Set:
    scope: str
    subject: str
    measure: str
    most: int
    connector: str
    action: str


@dataclass(frozen=True)
class Begin:
    who: str
    action: str
    params: Pay
    day: int
    again: int | None


@dataclass(frozen=True)
class End:
    which: int
    status: str
    again: bool


@dataclass
class Try:
    who: str
    action: str
    params: Pay
    status: str = "running"
    holds: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    wrote: set[str] = field(default_factory=set)


budget = st.builds(
    Set,
    scope=st.sampled_from(["workspace", "key"]),
    subject=st.sampled_from(sorted(MAKERS)),
    measure=st.sampled_from(["actions", "new_recipients", "hosts", "sum"]),
    most=st.integers(0, 6),
    connector=st.sampled_from(["", "bank", "post"]),
    action=st.sampled_from(["", "bank.pay"]),
)
pay = st.builds(
    Pay,
    to=st.lists(st.sampled_from(PEOPLE), max_size=3, unique=True),
    hosts=st.lists(st.sampled_from(HOSTS), max_size=2, unique=True),
    amount=st.integers(0, 4),
)
begin = st.builds(
    Begin,
    who=st.sampled_from(sorted(MAKERS)),
    action=st.sampled_from(ACTIONS),
    params=pay,
    day=st.integers(0, 1),
    again=st.none() | st.integers(0, 5),
)
end = st.builds(
    End, which=st.integers(0, 9), status=st.sampled_from(["succeeded", "failed", "unknown"]), again=st.booleans()
)


class Model:
    """What the documentation says, in the plainest form: nothing is counted up, everything is looked up."""

    def __init__(self, budgets: list[Set]) -> None:
        self.budgets = budgets
        self.tries: list[Try] = []

    def used(self, number: int, day: int) -> int:
        found: dict[str, int] = {}
        amount = 0
        for one in self.tries:
            for name, much in one.holds.get((number, day), {}).items():
                if name:
                    found[name] = 1
                else:
                    amount += much
        return amount + len(found)

    def known(self) -> set[str]:
        ended = [one for one in self.tries if one.status in ("succeeded", "unknown")]
        return {name for one in ended for name in one.wrote}

    def wants(self, number: int, who: str, action: str, params: Pay) -> dict[str, int]:
        its = self.budgets[number]
        connector = action.partition(".")[0]
        if its.scope == "key" and its.subject not in (who, *MAKERS[who]):
            return {}
        if its.connector not in ("", connector) or its.action not in ("", action):
            return {}
        if its.measure == "actions":
            return {"": 1}
        if its.measure == "sum":
            return {"": params.amount} if params.amount else {}
        if its.measure == "hosts":
            return dict.fromkeys(params.hosts, 1)
        if action == "bank.look":
            return {}
        return {name: 1 for name in params.to if name not in self.known()}

    def begin(self, asked: Try, day: int) -> type[Exception] | None:
        """Begin a try that holds what it holds; return what it must be refused with."""
        taken = {}
        for number in range(len(self.budgets)):
            mine = asked.holds.get((number, day), {})
            wants = self.wants(number, asked.who, asked.action, asked.params)
            fresh = {name: much for name, much in wants.items() if name not in mine}
            before = self.used(number, day)
            counted = {name for one in self.tries for name in one.holds.get((number, day), {})}
            more = sum(much for name, much in fresh.items() if not name or name not in counted)
            if more and before + more > self.budgets[number].most:
                return OverBudget if more > self.budgets[number].most else BudgetExhausted
            if fresh:
                taken[number, day] = {**mine, **fresh}
        if asked.action != "bank.look":
            asked.wrote |= set(asked.params.to) - self.known()
        asked.holds |= taken
        asked.status = "running"
        return None


def distinct(budgets: list[Set]) -> list[Set]:
    found = {}
    for one in budgets:
        if one.action and one.connector not in ("", "bank"):
            continue
        key = (one.scope, one.subject if one.scope == "key" else "", one.measure, one.connector, one.action)
        found[key] = one
    return list(found.values())


@dataclass
class Play:
    """A workspace of its own, and the model of it. Budgets stand in the order of their ids."""

    world: World
    workspace: str
    whos: dict[str, Principal]
    ids: list[str]
    model: Model
    attempts: list[str] = field(default_factory=list)

    @classmethod
    async def open(cls, world: World, budgets: list[Set]) -> "Play":
        workspace = "w" + uuid.uuid4().hex[:20]
        keys = {name: (await world.ring.principal(workspace=workspace)).id for name in MAKERS}
        whos = {
            name: principal(workspace, keys[name], made_by=tuple(keys[maker] for maker in makers))
            for name, makers in MAKERS.items()
        }
        made = {}
        for one in budgets:
            subject = workspace if one.scope == "workspace" else keys[one.subject]
            more = {"field": "amount"} if one.measure == "sum" else {}
            narrowed = {"connector": one.connector, "action": one.action}
            made[
                await world.limit(
                    one.most, one.measure, workspace, scope=one.scope, subject=subject, **narrowed, **more
                )
            ] = one
        ids = sorted(made)
        return cls(world, workspace, whos, ids, Model([made[budget_id] for budget_id in ids]))

    async def end(self, move: End) -> None:
        running = [number for number, one in enumerate(self.model.tries) if one.status == "running"]
        if not running:
            return
        number = running[move.which % len(running)]
        one = self.model.tries[number]
        again = move.again and move.status != "succeeded"
        await self.world.end(self.workspace, self.attempts[number], move.status, again=again)
        one.status = "ready" if again else move.status
        if move.status == "failed":
            one.holds, one.wrote = {}, set()

    async def begin(self, move: Begin) -> None:
        ready = [number for number, one in enumerate(self.model.tries) if one.status == "ready"]
        number = ready[move.again % len(ready)] if ready and move.again is not None else None
        asked = Try(move.who, move.action, move.params) if number is None else self.model.tries[number]
        expected = self.model.begin(asked, move.day)
        call = self.world.begin(
            self.whos[asked.who],
            asked.action,
            asked.params,
            attempt="" if number is None else self.attempts[number],
            at=(FIRST_DAY + move.day) * DAY + 5,
        )
        if expected is not None:
            with pytest.raises(expected):
                await call
            return
        made = await call
        if number is None:
            self.attempts.append(made)
            self.model.tries.append(asked)

    async def compare(self, move: Begin | End) -> None:
        use = BudgetUse(self.workspace)
        for day in (0, 1):
            found = await use.read_day(self.world.database.reader, FIRST_DAY + day)
            for number, budget_id in enumerate(self.ids):
                assert found.get(budget_id, 0) == self.model.used(number, day), (move, self.model.budgets[number])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    budgets=st.lists(budget, min_size=1, max_size=5).map(distinct),
    moves=st.lists(begin | begin | end, min_size=3, max_size=14),
)
def test_any_order_of_events_counts_as_the_model_says(
    target: Target, budgets: list[Set], moves: list[Begin | End]
) -> None:
    async def run() -> None:
        async with open_world(target) as world:
            play = await Play.open(world, budgets)
            for move in moves:
                await (play.end(move) if isinstance(move, End) else play.begin(move))
                await play.compare(move)

    asyncio.run(run())
