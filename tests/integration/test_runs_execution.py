"""Runs over a real database and the real gate: order, references, failures, cancellation, idempotency."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, text

from relay.core.clock import now
from relay.core.effect import EffectError, EffectRefused, EffectUnknown, EffectUnsent
from relay.core.plan import PlanStep
from relay.core.principal import Principal
from relay.core.problem import (
    Conflict,
    Gone,
    IdempotencyMismatch,
    Invalid,
    NotFound,
    Problem,
    TooManyStreams,
    Unavailable,
)
from relay.core.references import RESULT_OF
from relay.crypto.envelope import EnvelopeError
from relay.runs.service import Order
from relay.runs.steps import StepDraft
from relay.runs.work import Work
from relay.store.envelopes import EnvelopeRepository
from relay.store.tables import audit_events, envelopes, run_events
from relay.store.target import Target
from tests.runs_world import RunsHouse, runs_house, said, statuses


@pytest.fixture
async def house(target: Target) -> AsyncIterator[RunsHouse]:
    async with runs_house(target) as made:
        yield made


@pytest.fixture
async def who(house: RunsHouse) -> Principal:
    return (await house.key())[0]


def result_of(step: str, pointer: str, **more: Any) -> dict[str, Any]:
    return {RESULT_OF: step, "pointer": pointer, **more}


async def tags(house: RunsHouse) -> list[tuple[str, str]]:
    rows = await house.database.reader.all(
        select(audit_events.c.tag, audit_events.c.outcome)
        .where(audit_events.c.tag.like("runs:%"))
        .order_by(audit_events.c.seq)
    )
    return [tuple(row) for row in rows]


async def events(house: RunsHouse, run_id: str) -> list[tuple[int, str, str]]:
    rows = await house.database.reader.all(
        select(run_events.c.seq, run_events.c.step_id, run_events.c.status)
        .where(run_events.c.run_id == run_id)
        .order_by(run_events.c.seq)
    )
    return [tuple(row) for row in rows]


async def test_steps_run_in_order_and_every_transition_is_written(house: RunsHouse, who: Principal) -> None:
    run_id = await house.start_run(who, said("one"), said("two"))
    state = await house.ended(who, run_id)
    assert state.run.status == "succeeded"
    assert house.world.texts == ["one", "two"]
    assert state.results == {
        "s1": {"text": "ONE", "status": 200, "data": None},
        "s2": {"text": "TWO", "status": 200, "data": None},
    }
    assert await events(house, run_id) == [
        (1, "", "queued"),
        (2, "", "running"),
        (3, "s1", "running"),
        (4, "s1", "succeeded"),
        (5, "s2", "running"),
        (6, "s2", "succeeded"),
        (7, "", "succeeded"),
    ]
    assert await tags(house) == [("runs:run:created", ""), ("runs:run:finished", "succeeded")]
    assert state.run.finished_at is not None and state.run.lease_owner is None


async def test_a_result_reaches_a_later_step(house: RunsHouse, who: Principal) -> None:
    run_id = await house.start_run(
        who,
        said("one", data={"deep": [1, {"x": "y"}]}),
        said(result_of("s1", "/text"), data=[result_of("s1", "/data/deep/1"), result_of("s1", "/status")]),
        said(result_of("s1", "/data", **{"as": "text"})),
    )
    state = await house.ended(who, run_id)
    assert state.run.status == "succeeded"
    assert house.world.texts == ["one", "ONE", '{"deep":[1,{"x":"y"}]}']
    assert house.world.calls[1].data == [{"x": "y"}, 200]
    assert [step.dependencies() for step in state.steps] == [[], ["s1"], ["s1"]]


async def test_what_a_reference_brings_goes_through_the_whole_gate(house: RunsHouse, who: Principal) -> None:
    """The forecast took a stand-in; the real value is no address, so the step must not run."""
    run_id = await house.start_run(who, said("one"), said("two", to=result_of("s1", "/text")), said("three"))
    state = await house.ended(who, run_id)
    assert statuses(state) == ["succeeded", "failed", "cancelled"]
    assert state.steps[1].error_code == "invalid"
    assert house.world.texts == ["one"]


async def test_a_pointer_that_leads_nowhere_fails_its_step(house: RunsHouse, who: Principal) -> None:
    run_id = await house.start_run(who, said("one"), said("two", data={"a": result_of("s1", "/nothing")}))
    state = await house.ended(who, run_id)
    assert statuses(state) == ["succeeded", "failed"]
    assert state.steps[1].error_code == "bad_reference"
    assert state.steps[1].error_detail == "params/data/a: The result of step s1 has nothing at /nothing."
    assert house.world.texts == ["one"]


@pytest.mark.parametrize(
    ("error", "end"),
    [(EffectRefused("mailbox_full", "No."), "failed"), (EffectUnknown("cut_off", "Perhaps."), "unknown")],
)
async def test_the_first_step_that_does_not_succeed_ends_the_run(
    house: RunsHouse, who: Principal, error: Exception, end: str
) -> None:
    house.world.fail("two", error)
    state = await house.ended(who, await house.start_run(who, said("one"), said("two"), said("three")))
    assert state.run.status == end
    assert statuses(state) == ["succeeded", end, "cancelled"]
    assert state.steps[1].error_code == error.code  # type: ignore[attr-defined]
    assert state.steps[1].attempt_id is not None
    assert house.world.texts == ["one", "two"]
    assert (await tags(house))[-1] == ("runs:run:finished", end)


async def test_a_denied_step_fails_the_run(house: RunsHouse, who: Principal) -> None:
    steps = [said("one"), StepDraft("test.erase", {"text": "all"}), said("three")]
    state = await house.ended(who, await house.start_run(who, *steps))
    assert statuses(state) == ["succeeded", "failed", "cancelled"]
    assert state.steps[1].error_code == "denied"
    assert house.world.texts == ["one"]


async def test_a_defect_in_the_gate_is_an_end_too(
    house: RunsHouse, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(house.gate, "perform", broken)
    state = await house.ended(who, await house.start_run(who, said("one"), said("two")))
    assert statuses(state) == ["failed", "cancelled"]
    assert state.steps[0].error_code == "internal"


@pytest.mark.parametrize("problem", [Unavailable, TooManyStreams])
async def test_what_passes_by_itself_delays_a_step_and_repeats_nothing(
    house: RunsHouse, who: Principal, monkeypatch: pytest.MonkeyPatch, problem: type[Problem]
) -> None:
    perform, refusals = house.gate.perform, 3

    async def unavailable(*arguments: Any) -> Any:
        nonlocal refusals
        state = await perform(*arguments) if refusals in (0, 3) else None
        if refusals:
            refusals -= 1
            raise problem("not now")  # the first time after the effect: the gate must know that step again
        return state

    monkeypatch.setattr(house.gate, "perform", unavailable)
    state = await house.ended(who, await house.start_run(who, said("one")))
    assert state.run.status == "succeeded"
    assert house.world.texts == ["one"]
    assert refusals == 0


@pytest.mark.parametrize(
    ("steps", "pointer"),
    [
        ([said("one"), StepDraft("no.such", {})], "/steps/1/action"),
        ([StepDraft("test.say", {})], "/steps/0/params/text"),
        ([said("one"), said("")], "/steps/1/params/text"),
        ([said("one", extra=1)], "/steps/0/params/extra"),
        ([said("one"), said(result_of("s1", "/text"), extra=1)], "/steps/1/params/extra"),
        ([said("one"), said(result_of("s3", "/text")), said("x")], "/steps/1/params/text"),
        ([said("one"), StepDraft("no.such", {"x": result_of("s1", "/text")})], "/steps/1/action"),
        ([said("one"), StepDraft("test.erase", {"text": result_of("s1", "/text")})], "/steps/1/action"),
    ],
)
async def test_what_is_not_valid_is_refused_before_anything_runs(
    house: RunsHouse, who: Principal, steps: list[StepDraft], pointer: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        await house.start_run(who, *steps)
    assert [error["pointer"] for error in refusal.value.extensions["errors"]] == [pointer]
    assert await house.runs.page(who, 10, None) == ([], None)


async def test_a_key_revoked_during_the_run_stops_it(house: RunsHouse, who: Principal) -> None:
    begun, go_on = house.world.hold("one")
    run_id = await house.start_run(who, said("one"), said("two"))
    await begun.wait()
    await house.revoke(who)
    go_on.set()
    state = await house.ended(who, run_id)
    assert statuses(state) == ["succeeded", "failed"]
    assert state.steps[1].error_code == "credential_revoked"
    assert house.world.texts == ["one"]


class TestCancel:
    async def test_a_step_under_way_ends_and_the_rest_is_cancelled(self, house: RunsHouse, who: Principal) -> None:
        begun, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"), said("two"), said("three"))
        await begun.wait()
        first = await house.runs.cancel(who, run_id, "req_cancel_1")
        assert first.status == "running" and first.cancel_requested_at is not None
        assert await house.runs.cancel(who, run_id, "req_cancel_2") == first
        go_on.set()
        state = await house.ended(who, run_id)
        assert state.run.status == "cancelled"
        assert statuses(state) == ["succeeded", "cancelled", "cancelled"]
        assert house.world.texts == ["one"]
        assert await tags(house) == [
            ("runs:run:created", ""),
            ("runs:run:cancelled", ""),
            ("runs:run:finished", "cancelled"),
        ]
        with pytest.raises(Conflict):
            await house.runs.cancel(who, run_id, "req_cancel_3")

    async def test_after_the_last_step_has_begun_there_is_nothing_to_cancel(
        self, house: RunsHouse, who: Principal
    ) -> None:
        begun, go_on = house.world.hold("one")
        run_id = await house.start_run(who, said("one"))
        await begun.wait()
        await house.runs.cancel(who, run_id, "req_cancel_1")
        go_on.set()
        assert (await house.ended(who, run_id)).run.status == "succeeded"

    async def test_a_queued_run_is_cancelled_at_once(self, target: Target) -> None:
        async with runs_house(target, running=False) as house:
            who, _ = await house.key()
            run_id = await house.start_run(who, said("one"))
            assert (await house.runs.cancel(who, run_id, "req_cancel_1")).status == "cancelled"
        async with runs_house(target, house.world) as house:
            state = await house.ended(who, run_id)
            assert statuses(state) == ["cancelled"]
            await asyncio.sleep(0.2)
            assert house.world.texts == []

    async def test_cancelling_at_any_moment_leaves_a_run_that_ended_and_did_what_it_says(
        self, house: RunsHouse, who: Principal
    ) -> None:
        for delay in range(8):
            house.world.calls.clear()
            run_id = await house.start_run(who, *(said(f"step {number}") for number in range(4)))
            await asyncio.sleep(delay * 0.004)
            try:
                await house.runs.cancel(who, run_id, "req_cancel_1")
            except Conflict:
                assert (await house.runs.find(who, run_id)).status == "succeeded"
            state = await house.ended(who, run_id)
            done = statuses(state).count("succeeded")
            assert statuses(state) == ["succeeded"] * done + ["cancelled"] * (4 - done)
            assert house.world.texts == [f"step {number}" for number in range(done)]
            assert state.run.status == ("succeeded" if done == 4 else "cancelled")
            seen = [seq for seq, _, _ in await events(house, run_id)]
            assert seen == list(range(1, len(seen) + 1))

    async def test_another_workspace_cannot(self, house: RunsHouse, who: Principal) -> None:
        stranger, _ = await house.key("elsewhere")
        run_id = await house.start_run(who, said("one"))
        with pytest.raises(NotFound):
            await house.runs.cancel(stranger, run_id, "req_cancel_1")
        await house.ended(who, run_id)


class TestIdempotency:
    async def test_the_same_order_is_one_run_and_another_order_is_refused(
        self, house: RunsHouse, who: Principal
    ) -> None:
        run_id = await house.start_run(who, said("one"), key="k")
        await house.ended(who, run_id)
        assert await house.runs.execute(
            who, Order(request_id="req_again_1", steps=[said("one")], idempotency_key="k")
        ) == (run_id, "succeeded")
        with pytest.raises(IdempotencyMismatch):
            await house.start_run(who, said("two"), key="k")
        other, _ = await house.key()
        assert await house.start_run(other, said("one"), key="k") != run_id

    async def test_sixteen_twins_at_once_are_one_run(self, house: RunsHouse, who: Principal) -> None:
        made = await asyncio.gather(*(house.start_run(who, said("one"), key="k") for _ in range(16)))
        assert len(set(made)) == 1
        await house.ended(who, made[0])
        assert house.world.texts == ["one"]

    async def test_an_expired_key_is_free_again(self, target: Target) -> None:
        async with runs_house(target, running=False, idempotency_ttl=1) as house:
            who, _ = await house.key()
            first = await house.start_run(who, said("one"), key="k")
            await asyncio.sleep(0.01)
            assert await house.start_run(who, said("two"), key="k") != first


async def test_nothing_of_what_was_asked_stands_in_the_clear(house: RunsHouse, who: Principal) -> None:
    run_id = await house.start_run(who, said("kryptonite", to="lex@luthor.example", password="lead box"))
    await house.ended(who, run_id)
    dump = ""
    for table in ("runs", "run_steps", "run_events", "attempts", "audit_events", "idempotency", "plans"):
        dump += str(await house.database.reader.all(text(f"SELECT * FROM {table}")))
    assert run_id in dump
    for secret in ("kryptonite", "luthor", "lead box", "KRYPTONITE"):
        assert secret not in dump
    found = await house.database.reader.one(
        select(envelopes.c.body, envelopes.c.expires_at).where(envelopes.c.purpose == "run")
    )
    assert found is not None
    assert b"kryptonite" not in found[0]
    assert found[1] > now()
    sealed = await house.vault.open(workspace="default", purpose="run", record_id=run_id)
    assert sealed is not None and json.loads(sealed)["steps"][0]["params"]["text"] == "kryptonite"


async def test_erased_inputs_fail_the_run(target: Target) -> None:
    async with runs_house(target, running=False) as house:
        who, _ = await house.key()
        run_id = await house.start_run(who, said("one"))
        await house.database.writer.run(
            lambda tx: EnvelopeRepository("default").drop(tx, purpose="run", record_id=run_id)
        )
    async with runs_house(target, house.world) as house:
        state = await house.ended(who, run_id)
        assert state.steps[0].error_code == "inputs_erased"
        assert house.world.texts == []


async def test_pages_are_newest_first_and_complete(target: Target) -> None:
    async with runs_house(target, running=False) as house:
        who, _ = await house.key()
        stranger, _ = await house.key("elsewhere")
        made = []
        for number in range(5):
            made.append(await house.start_run(who, said(str(number))))
            await asyncio.sleep(0.002)
        await house.start_run(stranger, said("hidden"))
        seen: list[str] = []
        cursor = None
        while True:
            page, cursor = await house.runs.page(who, 2, cursor)
            seen += [state.run.id for state in page]
            assert all(len(state.steps) == 1 for state in page)
            if cursor is None:
                break
        assert seen == made[::-1]


class TestPlans:
    async def plan(self, house: RunsHouse, who: Principal, *texts: str) -> str:
        house.planner.propose_steps(
            *(PlanStep(f"s{n}", "test.say", {"text": text}, "Say it.") for n, text in enumerate(texts, 1))
        )
        return (await house.plans.make(who, "please", None, "req_test_plan")).id

    async def test_a_plan_runs_once(self, house: RunsHouse, who: Principal) -> None:
        plan_id = await self.plan(house, who, "one", "two")
        run_id, _ = await house.runs.execute(who, Order(request_id="req_1", plan_id=plan_id))
        await house.ended(who, run_id)
        assert house.world.texts == ["one", "two"]
        with pytest.raises(Gone):
            await house.runs.execute(who, Order(request_id="req_2", plan_id=plan_id))

    async def test_of_many_at_once_one_gets_the_plan(self, house: RunsHouse, who: Principal) -> None:
        plan_id = await self.plan(house, who, "one")
        orders = [Order(request_id=f"req_{number}", plan_id=plan_id) for number in range(8)]
        made = await asyncio.gather(*(house.runs.execute(who, order) for order in orders), return_exceptions=True)
        runs = [entry for entry in made if isinstance(entry, tuple)]
        assert len(runs) == 1
        assert sum(isinstance(entry, Gone) for entry in made) == 7
        await house.ended(who, runs[0][0])
        assert house.world.texts == ["one"]

    async def test_an_idempotency_key_outlives_the_plan(self, house: RunsHouse, who: Principal) -> None:
        plan_id = await self.plan(house, who, "one")
        first = await house.runs.execute(who, Order("req_1", plan_id=plan_id, idempotency_key="k"))
        again = await house.runs.execute(who, Order("req_2", plan_id=plan_id, idempotency_key="k"))
        assert first[0] == again[0]
        await house.ended(who, first[0])

    async def test_it_belongs_to_one_principal_of_one_workspace(self, house: RunsHouse, who: Principal) -> None:
        plan_id = await self.plan(house, who, "one")
        for workspace in ("default", "elsewhere"):
            stranger, _ = await house.key(workspace)
            with pytest.raises(NotFound):
                await house.runs.execute(stranger, Order(request_id="req_1", plan_id=plan_id))

    async def test_it_expires(self, target: Target) -> None:
        async with runs_house(target, running=False, plan_ttl=1) as house:
            who, _ = await house.key()
            plan_id = await self.plan(house, who, "one")
            await asyncio.sleep(0.01)
            with pytest.raises(Gone):
                await house.runs.execute(who, Order(request_id="req_1", plan_id=plan_id))

    async def test_a_plan_without_steps_cannot_be_executed(self, house: RunsHouse, who: Principal) -> None:
        plan = await house.plans.make(who, "please", None, "req_test_plan")
        assert list(plan.steps) == []
        with pytest.raises(Invalid):
            await house.runs.execute(who, Order(request_id="req_1", plan_id=plan.id))

    async def test_one_step_that_is_not_valid_empties_the_proposal(self, house: RunsHouse, who: Principal) -> None:
        house.planner.propose_steps(
            PlanStep("s1", "test.say", {"text": "one"}, ""), PlanStep("s2", "test.say", {"no": 1}, "")
        )
        plan = await house.plans.make(who, "please", None, "req_test_plan")
        assert list(plan.steps) == []
        assert "not valid" in plan.proposal.explanation
        assert plan.proposal.confidence == 0


async def test_a_viewer_cannot_run_what_it_may_plan(house: RunsHouse) -> None:
    viewer, _ = await house.key(scopes=("viewer",))
    state = await house.ended(viewer, await house.start_run(viewer, said("one")))
    assert state.steps[0].error_code == "insufficient-scope"
    assert house.world.texts == []


async def test_a_summary_is_the_action_s_own(house: RunsHouse, who: Principal) -> None:
    steps = [said("secret plan"), StepDraft("test.erase", {"text": "all"})]
    state = await house.ended(who, await house.start_run(who, *steps))
    assert [step.summary for step in state.steps] == ["Say something.", "Erase something."]


async def test_a_result_that_cannot_be_opened_ends_the_run(
    house: RunsHouse, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise EnvelopeError("changed")

    begun, go_on = house.world.hold("two")
    run_id = await house.start_run(who, said("one"), said("two"), said(result_of("s1", "/text")))
    await begun.wait()
    monkeypatch.setattr(Work, "_results_for", broken)
    go_on.set()
    ended = await house.ended(who, run_id)
    assert statuses(ended) == ["succeeded", "succeeded", "failed"]
    assert ended.steps[2].error_code == "internal"


class TestOptions:
    @pytest.mark.parametrize(
        ("error", "tries"), [(EffectUnsent("unreachable", "Nobody there."), 2), (EffectRefused("no", "No."), 1)]
    )
    async def test_only_what_nobody_received_is_tried_again(
        self, house: RunsHouse, who: Principal, error: EffectError, tries: int
    ) -> None:
        house.world.fail("say it", error)
        draft = StepDraft("test.say", {"text": "say it"}, retries=1)
        run_id = await house.start_run(who, draft, said("after"))
        async with asyncio.timeout(60):
            while (state := await house.runs.show(who, run_id)).run.status != "failed":
                await asyncio.sleep(0.05)
        assert statuses(state) == ["failed", "cancelled"]
        assert house.world.texts == ["say it"] * tries

    async def test_without_retries_there_is_one_try(self, house: RunsHouse, who: Principal) -> None:
        house.world.fail("say it", EffectUnsent("unreachable", "Nobody there."))
        state = await house.ended(who, await house.start_run(who, said("say it")))
        assert state.run.status == "failed" and house.world.texts == ["say it"]

    async def test_a_step_s_own_time_out_ends_it(self, house: RunsHouse, who: Principal) -> None:
        house.world.hold("slow")
        draft = StepDraft("test.say", {"text": "slow"}, timeout_seconds=0.2)
        state = await house.ended(who, await house.start_run(who, draft))
        assert statuses(state) == ["unknown"] and state.steps[0].error_code == "timed_out"

    async def test_a_time_out_beyond_the_action_s_own_is_refused(self, house: RunsHouse, who: Principal) -> None:
        with pytest.raises(Invalid) as refused:
            await house.start_run(who, StepDraft("test.say", {"text": "x"}, timeout_seconds=20.5))
        assert refused.value.extensions["errors"][0]["pointer"] == "/steps/0/timeout_seconds"
