"""Messages, decisions, edits, withdrawals, expiries in any order: a draft is done once at most, and as approved."""

import asyncio
import json
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from relay.chat.views import CallView
from relay.core.principal import Principal
from relay.core.problem import Problem
from relay.llm.messages import FunctionResult, Message, ModelMessage
from relay.store.target import Target
from tests.chat_model import AnyModel, any_model
from tests.chat_world import ADDRESS, REQUEST, ChatWorld
from tests.integration.test_chat_held import expire

EXAMPLES = 20
STEPS = 12
PATIENCE = 60.0
T = TypeVar("T")


class Talk(RuleBasedStateMachine):
    """A session over one installation, which all machines share; each has a session of its own."""

    runner: ClassVar[asyncio.Runner]
    world: ClassVar[ChatWorld]
    model: ClassVar[AnyModel]
    agent: ClassVar[Principal]
    person: ClassVar[Principal]
    names: ClassVar[Iterator[int]]

    drafts = Bundle("drafts")

    def __init__(self) -> None:
        super().__init__()
        self.session: str | None = None
        self.approved: set[str] = set()
        self.turns: list[str] = []
        self.world.world.done.clear()
        self.model.asked.clear()
        self.model.said.clear()

    @rule(target=drafts, kinds=st.lists(st.sampled_from(["thing-wipe", "thing-read"]), min_size=1, max_size=3))
    def say(self, kinds: list[str]) -> list[str]:
        """Have the model ask for calls; what it asks for is named as nothing before."""
        self.model.said.append(("Yes.", [(kind, json.dumps({"what": f"n{next(self.names)}"})) for kind in kinds]))
        view = self.runner.run(self.world.say(self.agent, "Do it", self.session))
        self.session = view.session_id
        self.turns.append(view.id)
        assert view.status == ("awaiting_approval" if "thing-wipe" in kinds else "done"), view
        return [call.id for call in view.calls]

    @rule(ids=drafts, place=st.integers(0, 2), approve=st.booleans())
    def decide(self, ids: list[str], place: int, approve: bool) -> None:
        call = self.waiting(ids, place)
        if call is not None:
            decision = "approve" if approve else "deny"
            decided = self.tried(self.decided(call, decision))
            self.approved |= {call.params["what"]} if approve and decided else set()

    async def decided(self, call: CallView, decision: str) -> bool:
        await self.world.decide(self.person, call, decision)
        return True

    @rule(ids=drafts, place=st.integers(0, 2))
    def edit(self, ids: list[str], place: int) -> None:
        call = self.waiting(ids, place)
        if call is not None:
            params = {"what": f"n{next(self.names)}"}
            edited = self.tried(
                self.world.chat.edit_call(self.agent, str(self.session), call.id, params, REQUEST, ADDRESS)
            )
            assert edited is None or (edited.status, edited.params["what"]) == ("pending_approval", params["what"])
            assert edited is None or edited.digest != call.digest

    @rule(ids=drafts, place=st.integers(0, 2))
    def withdraw(self, ids: list[str], place: int) -> None:
        call = self.waiting(ids, place)
        if call is not None:
            shown = self.tried(self.world.chat.cancel_call(self.agent, str(self.session), call.id, REQUEST))
            assert shown is None or shown.status == "cancelled"

    @rule()
    def cancel(self) -> None:
        if self.session is not None:
            self.tried(self.world.chat.cancel(self.agent, self.session, REQUEST))

    @rule()
    def expire(self) -> None:
        self.runner.run(expire(self.world))

    def waiting(self, ids: list[str], place: int) -> CallView | None:
        """Return a call if it waits for approval."""
        if place >= len(ids):
            return None
        call = self.runner.run(self.world.chat.find_call(self.agent, str(self.session), ids[place]))
        return call if call.status == "pending_approval" else None

    def tried(self, attempt: Coroutine[Any, Any, T]) -> T | None:
        """Return what comes of it, None where somebody, or time, was quicker."""
        try:
            return self.runner.run(attempt)
        except Problem as problem:
            assert problem.status == 409, problem.document("", "")
            return None

    @invariant()
    def settled(self) -> None:
        """Whatever has nothing to wait for has come to its end; what was done was approved, and done once."""
        self.runner.run(self.rest())
        wiped = [thing.what for action, thing in self.world.world.done if action == "thing.wipe"]
        assert len(wiped) == len(set(wiped))
        assert set(wiped) == self.approved
        for question in self.model.asked:
            _require_one_result_for_each_call(question.messages)

    async def rest(self) -> None:
        async with asyncio.timeout(PATIENCE):
            for turn_id in self.turns:
                while not await self.rests(turn_id):
                    await asyncio.sleep(0.02)

    async def rests(self, turn_id: str) -> bool:
        view = await self.world.chat.finished(turn_id)
        waits = [call for call in view.calls if call.status in ("pending_approval", "running")]
        for call in waits:
            attempt_id = call.attempt_id or ""
            state = await self.world.engine.performer.attempts.state("default", attempt_id)
            if state.status != call.status:
                return False
        return bool(waits) == (view.status == "awaiting_approval")


def _require_one_result_for_each_call(told: Sequence[Message]) -> None:
    for place, one in enumerate(told):
        if isinstance(one, ModelMessage) and one.calls:
            results = told[place + 1 : place + 1 + len(one.calls)]
            ids = [result.call_id for result in results if isinstance(result, FunctionResult)]
            assert ids == [call.id for call in one.calls]


def test_any_order_of_events(sqlite_target: Target, tmp_path: Path) -> None:
    runner = asyncio.Runner()
    opened = any_model(sqlite_target, tmp_path / "data")
    Talk.world, Talk.model = runner.run(opened.__aenter__())
    Talk.runner, Talk.names = runner, iter(range(1_000_000))
    Talk.agent = runner.run(Talk.world.key())
    Talk.person = runner.run(Talk.world.key("approver", kind="person"))
    try:
        run_state_machine_as_test(
            Talk,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        runner.run(opened.__aexit__(None, None, None))
        runner.close()
