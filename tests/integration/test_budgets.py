"""Budgets on real databases: races within and across processes, what is reported, who may set them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import pytest
from sqlalchemy import delete, select

from relay.core.clock import DAY, now
from relay.core.problem import BudgetExhausted, Conflict, Denied, Invalid, NotFound, OverBudget
from relay.policy import budget_book
from relay.policy.budget_book import Wish
from relay.policy.budgets import Budgets
from relay.store.query import Query
from relay.store.retention import Purge
from relay.store.tables import audit_events, envelopes, generations
from relay.store.tables.budgets import budget_days, budget_holds, budget_members, recipients
from relay.store.target import Target
from relay.store.writer import StoreUnavailable, Tx
from tests.budgets_world import REQUEST, Pay, World, open_world, person, principal

ME = principal()


@pytest.fixture
async def world(target: Target) -> AsyncIterator[World]:
    async with open_world(target) as opened:
        yield opened


async def tags(world: World, tag: str = "policy:budget:%") -> list[tuple[str, str]]:
    found = select(audit_events.c.tag, audit_events.c.target).where(audit_events.c.tag.like(tag))
    return [(row.tag, row.target) for row in await world.database.reader.all(found.order_by(audit_events.c.seq))]


async def raced(*calls: object) -> Counter[str]:
    ended = await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[call-overload]
    return Counter(type(one).__name__ for one in ended)


async def test_of_sixteen_twins_as_many_begin_as_the_budget_allows(world: World) -> None:
    budget = await world.limit(10)
    ended = await raced(*(world.begin(ME, "bank.pay") for _ in range(16)))
    assert ended == {"str": 10, "BudgetExhausted": 6}
    assert await world.used() == {budget: 10}


async def test_processes_share_one_count_and_never_wait_for_each_other_in_a_circle(target: Target) -> None:
    """Three budgets, asked for in every order by three processes at once; on SQLite they are the same process twice."""
    async with open_world(target) as one, open_world(target) as two, open_world(target) as three:
        total = await one.limit(30)
        bank = await one.limit(20, connector="bank")
        people = await one.limit(7, "new_recipients")
        worlds = [one, two, three]
        until = time.monotonic() + 30
        for world in worlds:  # the other processes learn of the budgets
            while len(await world.budgets._of("default")) != 3:
                assert time.monotonic() < until
                await asyncio.sleep(0.05)
        params = [Pay(to=[f"p{number % 12}@example.com"]) for number in range(60)]
        calls = [
            worlds[number % 3].begin(ME, "bank.pay" if number % 2 else "post.send", params[number])
            for number in range(60)
        ]
        ended = await raced(*calls)
        assert set(ended) == {"str", "BudgetExhausted"}, ended
        used = await one.used()
        assert used[people] == 7
        assert used[total] == ended["str"] <= 30
        assert used[bank] <= 20


async def test_an_attempt_whose_outcome_is_unknown_stays_counted_and_one_that_failed_does_not(world: World) -> None:
    budget = await world.limit(2)
    failed, unknown = [await world.begin(ME, "bank.pay") for _ in range(2)]
    with pytest.raises(BudgetExhausted):
        await world.begin(ME, "bank.pay")
    await world.end("default", failed, "failed")
    await world.end("default", unknown, "unknown")
    assert await world.used() == {budget: 1}
    await world.begin(ME, "bank.pay")
    with pytest.raises(BudgetExhausted):
        await world.begin(ME, "bank.pay")


async def test_a_service_has_a_budget_where_it_acts(world: World) -> None:
    with pytest.raises(NotFound):
        await world.limit(1, scope="key", subject="chat", workspace="other")
    budget = await world.limit(1, scope="key", subject="chat")
    chat = principal(who="chat", kind="service")
    await world.begin(chat, "bank.pay")
    with pytest.raises(BudgetExhausted):
        await world.begin(chat, "bank.pay")
    await world.begin(ME, "bank.pay")
    assert await world.used() == {budget: 1}


def release(tx: Tx, workspace: str, attempt: str) -> None:
    Budgets.release(tx, workspace, attempt)


async def test_releasing_twice_or_what_took_nothing_gives_nothing_back(world: World) -> None:
    budget = await world.limit(5)
    kept, gone = [await world.begin(ME, "bank.pay") for _ in range(2)]
    for attempt in (gone, gone, "att_0"):
        await world.database.writer.run(partial(release, workspace="default", attempt=attempt))
    await world.database.writer.run(partial(release, workspace="other", attempt=kept))
    assert await world.used() == {budget: 1}


async def test_who_was_written_to_before_there_was_a_budget_is_not_new(world: World) -> None:
    for status in ("succeeded", "unknown", "failed"):
        attempt = await world.begin(ME, "bank.pay", Pay(to=[f"{status}@example.com"]))
        await world.end("default", attempt, status)
    looked = await world.begin(ME, "bank.look", Pay(to=["looked@example.com"]))
    await world.end("default", looked, "succeeded")
    budget = await world.limit(2, "new_recipients")
    everyone = [f"{status}@example.com" for status in ("succeeded", "unknown", "failed", "looked")]
    await world.begin(ME, "bank.pay", Pay(to=everyone))
    assert await world.used() == {budget: 2}
    with pytest.raises(BudgetExhausted):
        await world.begin(ME, "bank.pay", Pay(to=["somebody@example.com"]))


async def test_no_address_and_no_host_is_stored_in_the_clear_and_workspaces_have_different_pseudonyms(
    world: World,
) -> None:
    stored = []
    for workspace in ("default", "other"):
        await world.limit(5, "new_recipients", workspace)
        await world.limit(5, "hosts", workspace)
        await world.begin(principal(workspace), "bank.pay", Pay(to=["ada@example.com"], hosts=["host.example"]))
        found = select(recipients.c.recipient).where(recipients.c.workspace_id == workspace)
        stored.append([row[0] for row in await world.database.reader.all(found)])
    assert len(stored[0]) == len(stored[1]) == 1 and stored[0] != stored[1]
    everything = [await world.database.reader.all(select(table)) for table in recipients.metadata.sorted_tables]
    assert "ada@" not in repr(everything) and "host.example" not in repr(everything)


async def test_a_refusal_says_which_budget_and_for_how_long_it_is_true(world: World) -> None:
    budget = await world.limit(1, connector="bank")
    await world.begin(ME, "bank.pay")
    with pytest.raises(BudgetExhausted) as caught:
        await world.begin(ME, "bank.pay")
    problem = caught.value
    assert problem.status == 429 and budget in problem.detail and "through bank" in problem.detail
    left = (DAY - now() % DAY) / 1_000_000
    assert 0 <= problem.retry_after - left < 5
    assert problem.headers["Retry-After"] == str(problem.retry_after)
    about = problem.extensions["budget"]
    assert (about["id"], about["limit"], about["used"]) == (budget, 1, 1)
    tomorrow = await world.begin(ME, "bank.pay", at=now() + DAY)
    assert tomorrow


async def test_what_exceeds_a_whole_day_is_not_told_to_wait(world: World) -> None:
    await world.limit(100, "sum", field="amount")
    with pytest.raises(OverBudget) as caught:
        await world.begin(ME, "bank.pay", Pay(amount=101))
    assert caught.value.status == 403 and "Retry-After" not in caught.value.headers
    await world.begin(ME, "bank.pay", Pay(amount=100))


async def test_a_key_and_all_that_it_made_share_its_budget(world: World) -> None:
    key = await world.ring.principal()
    budget = await world.limit(2, scope="key", subject=key.id)
    child = principal(who="key_child", made_by=("operator", key.id))
    await world.begin(key, "bank.pay")
    await world.begin(child, "bank.pay")
    for one in (key, child):
        with pytest.raises(BudgetExhausted):
            await world.begin(one, "bank.pay")
    await world.begin(principal(who="key_other"), "bank.pay")
    assert await world.used() == {budget: 2}


async def test_nearly_used_and_exhausted_are_reported_once_a_day_each(world: World) -> None:
    budget = await world.limit(5)
    for _ in range(3):
        await world.begin(ME, "bank.pay")
    assert await tags(world, "policy:budget:%used") == []
    fourth = await world.begin(ME, "bank.pay")
    assert await tags(world, "policy:budget:%used") == [("policy:budget:nearly_used", budget)]
    await world.end("default", fourth, "failed")
    for _ in range(2):
        last = await world.begin(ME, "bank.pay")
    await world.end("default", last, "failed")
    await world.begin(ME, "bank.pay")
    assert [tag for tag, _ in await tags(world)][1:] == ["policy:budget:nearly_used", "policy:budget:exhausted"]
    for _ in range(5):
        await world.begin(ME, "bank.pay", at=now() + DAY)
    assert [tag for tag, _ in await tags(world)][3:] == ["policy:budget:nearly_used", "policy:budget:exhausted"]


async def test_a_refusal_by_what_is_left_is_reported_once_a_day(world: World) -> None:
    budget = await world.limit(100, "sum", field="amount")
    await world.begin(ME, "bank.pay", Pay(amount=70))
    for _ in range(3):
        with pytest.raises(BudgetExhausted) as caught:
            await world.begin(ME, "bank.pay", Pay(amount=31))
        await world.budgets.refused(ME, world.spec("bank.pay"), caught.value, REQUEST)
    assert await tags(world, "policy:budget:exhausted") == [("policy:budget:exhausted", budget)]


async def test_a_forecast_says_what_would_be_too_much_and_changes_nothing(world: World) -> None:
    await world.limit(1)
    people = await world.limit(1, "new_recipients")
    spec, many = world.spec("bank.pay"), Pay(to=["a@x.example", "b@x.example"])
    exposed = spec.expose(many)
    (warning,) = await world.budgets.forecast(ME, spec, exposed)
    assert "2nd of 1 new recipients" in warning and people in warning
    await world.begin(ME, "bank.pay", Pay(to=["a@x.example"]))
    before = await world.used()
    warnings = await world.budgets.forecast(ME, spec, exposed)
    assert len(warnings) == 2 and "2nd of 1 actions" in warnings[0]
    assert await world.used() == before
    assert await world.budgets.forecast(principal("other"), spec, exposed) == []


async def test_a_new_limit_and_a_removal_hold_at_once(world: World) -> None:
    budget = await world.limit(1)
    await world.begin(ME, "bank.pay")
    state = await world.book.change(person(), budget, 2, request_id=REQUEST)
    assert (state.budget.most, state.used) == (2, 1)
    await world.begin(ME, "bank.pay")
    with pytest.raises(BudgetExhausted):
        await world.begin(ME, "bank.pay")
    await world.book.remove(person(), budget, request_id=REQUEST)
    await world.begin(ME, "bank.pay")
    noted = [tag for tag, _ in await tags(world) if not tag.endswith(("exhausted", "used"))]
    assert noted == ["policy:budget:created", "policy:budget:changed", "policy:budget:removed"]


async def test_only_a_person_sets_budgets_and_only_in_the_own_workspace(world: World) -> None:
    budget = await world.limit(5)
    wish = Wish(scope="workspace", subject="default", measure="hosts", most=1)
    for call in (
        world.book.create(ME, wish, request_id=REQUEST),
        world.book.change(ME, budget, 9, request_id=REQUEST),
        world.book.remove(ME, budget, request_id=REQUEST),
    ):
        with pytest.raises(Denied):
            await call
    stranger = person("other")
    for call in (
        world.book.create(stranger, wish, request_id=REQUEST),
        world.book.change(stranger, budget, 9, request_id=REQUEST),
        world.book.remove(stranger, budget, request_id=REQUEST),
    ):
        with pytest.raises(NotFound):
            await call
    key = await world.ring.principal(workspace="other")
    with pytest.raises(NotFound):
        await world.limit(1, scope="key", subject=key.id)
    assert [(state.budget.id, state.budget.most) for state in await world.book.all("default")] == [(budget, 5)]


@pytest.mark.parametrize(
    ("measure", "more", "pointer"),
    [
        ("actions", {"connector": "nowhere"}, "/connector"),
        ("actions", {"action": "bank.rob"}, "/action"),
        ("actions", {"action": "bank.pay", "connector": "post"}, "/action"),
        ("sum", {}, "/field"),
        ("sum", {"field": "recipients"}, "/field"),
        ("actions", {"field": "amount"}, "/field"),
    ],
)
async def test_a_budget_of_what_does_not_exist_is_refused(
    world: World, measure: str, more: dict[str, str], pointer: str
) -> None:
    with pytest.raises(Invalid) as caught:
        await world.limit(1, measure, **more)
    assert caught.value.extensions["errors"][0]["pointer"] == pointer


async def test_two_budgets_of_one_kind_and_too_many_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await world.limit(1)
    with pytest.raises(Conflict) as caught:
        await world.limit(2)
    assert caught.value.extensions["budget_id"] == first
    monkeypatch.setattr(budget_book, "MAX_BUDGETS", 2)
    await world.limit(1, "hosts")
    with pytest.raises(Conflict, match="at most 2"):
        await world.limit(1, "new_recipients")
    assert len(await world.used()) == 2


async def test_without_the_lock_s_row_nothing_that_is_counted_begins(world: World) -> None:
    await world.limit(5)
    gone = Query(delete(generations).where(generations.c.name == "attempts"))
    await world.database.writer.run(lambda tx: tx.run(gone))
    with pytest.raises(StoreUnavailable):
        await world.begin(ME, "bank.pay")


async def test_counts_of_days_gone_by_are_purged_and_who_was_written_to_is_not(world: World) -> None:
    await world.limit(5)
    await world.limit(5, "hosts")
    await world.begin(ME, "bank.pay", Pay(to=["a@x.example"], hosts=["h.example"]))
    purge, reader = Purge(world.database.writer), world.database.reader
    await purge.once(now() + DAY)
    assert len(await reader.all(select(budget_days))) == 2
    await purge.once(now() + 4 * DAY)
    for table in (budget_days, budget_members, budget_holds):
        assert await reader.all(select(table)) == []
    assert len(await reader.all(select(recipients))) == 1
    assert len(await reader.all(select(envelopes.c.record_id).where(envelopes.c.purpose == "pseudonyms"))) == 1
