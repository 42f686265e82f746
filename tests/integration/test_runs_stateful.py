"""The machine of runs against a model of it: claims, crashes, take-overs, cancellations, decisions, in any order.

Each worker is a program counter that may stop anywhere, for ever or for a while, and each message may come at any time,
twice or never: whoever is delivered a run, and when, is drawn. The database is real; time and the effects are the
model's.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Text, bindparam, insert, select, update

from relay.audit.record import Recorder
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict
from relay.crypto.envelope import Envelopes
from relay.gate.ask import AttemptState
from relay.runs.changes import Changes
from relay.runs.journal import Claim, Journal, LeaseLost
from relay.runs.machine import FINISHED, StepEnd, conclude, end_of_attempt
from relay.store.database import Database
from relay.store.query import Query
from relay.store.runs import RunRepository, RunRow, RunsOfAllWorkspaces, StepRow
from relay.store.tables import attempts, audit_events
from relay.store.target import Target
from relay.store.writer import Tx

T = TypeVar("T")
SECOND = 1_000_000
LEASE = 10
OUTCOMES = st.sampled_from(["succeeded", "succeeded", "failed", "unknown", "pending_approval"])
WHO = Principal("key_1", "person", "default", frozenset({"actions:execute"}), "key_1", (), "api_key")
RUNS = RunRepository("default")

_INSERT_ATTEMPT = Query(insert(attempts))
_SET_ATTEMPT = Query(
    update(attempts)
    .where(attempts.c.id == bindparam("attempt"), attempts.c.status == bindparam("was"))
    .values(status=bindparam("becomes"))
)


@dataclass
class World:
    """One open database on a loop of its own, for every example."""

    runner: asyncio.Runner
    database: Database

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def write(self, unit: Callable[[Tx], T]) -> T:
        return self.run(self.database.writer.run(unit, outcome=True))


@dataclass
class Run:
    """What the model says of a run. ``effects`` counts, for each step, how often the outside was reached."""

    id: str
    steps: list[str]
    status: str = "queued"
    fence: int = 0
    holder: int | None = None
    until: int = 0
    cancel: bool = False
    effects: list[int] = field(default_factory=list)
    attempts: list[str | None] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


@dataclass
class Worker:
    """Where a worker is: it has claimed a run, begun a step, seen what its attempt came to."""

    name: int
    run: Run | None = None
    claim: Claim | None = None
    place: int = 0
    begun: bool = False
    end: StepEnd | None = None

    def holds(self) -> bool:
        run = self.run
        return run is not None and self.claim is not None and run.status == "running" and run.fence == self.claim.fence


class RunsMachine(RuleBasedStateMachine):
    """Rules are what processes, people and the clock do."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000 * SECOND
        self.all: list[Run] = []
        self.everybody: list[Worker] = []
        self.names = itertools.count(1)
        self.journal = Journal(self.world.database, Changes(), lease_seconds=LEASE, recall=self._recall)
        self.clock = mock.patch("relay.runs.journal.now", side_effect=lambda: self.time)
        self.clock.start()

    @initialize()
    def begin(self) -> None:
        self._worker()
        self._worker()
        self.order(2)

    def _worker(self) -> Worker:
        worker = Worker(next(self.names))
        self.everybody.append(worker)
        return worker

    def _recall(self, tx: Tx, workspace: str, attempt_id: str) -> bool:
        return tx.run(_SET_ATTEMPT, attempt=attempt_id, was="pending_approval", becomes="cancelled") == 1

    @precondition(lambda self: len(self._unfinished()) < 3)
    @rule(count=st.integers(1, 3))
    def order(self, count: int) -> None:
        run = Run(new_id("run"), ["queued"] * count, effects=[0] * count)
        run.attempts = [None] * count
        row = RunRow(run.id, "default", WHO.id, None, "req_1", "queued", self.time)
        steps = [
            StepRow(run.id, "default", place, f"s{place}", "test.say", "Say.", "[]", "queued") for place in range(count)
        ]

        def unit(tx: Tx) -> None:
            RUNS.insert(tx, row, steps)
            RUNS.append_events(tx, run.id, self.time, [("run", "", "queued")])

        self.world.write(unit)
        self.all.append(run)

    @precondition(lambda self: not self._idle())
    @rule()
    def a_process_starts(self) -> None:
        self._worker()

    @precondition(lambda self: self._busy())
    @rule(data=st.data())
    def a_process_is_killed_and_another_starts(self, data: st.DataObject) -> None:
        self._killed(data.draw(st.sampled_from(self._busy())))
        self._worker()

    def _killed(self, worker: Worker) -> None:
        self.everybody.remove(worker)

    def _unfinished(self) -> list[Run]:
        return [run for run in self.all if not run.finished]

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.everybody if worker.claim is not None]

    def _idle(self) -> list[Worker]:
        return [worker for worker in self.everybody if worker.claim is None]

    @precondition(lambda self: self._busy())
    @rule(seconds=st.sampled_from([1, LEASE // 2, LEASE + 1]))
    def time_passes(self, seconds: int) -> None:
        self.time += seconds * SECOND

    @precondition(lambda self: self._idle())
    @rule(data=st.data())
    def a_message_arrives(self, data: st.DataObject) -> None:
        # Of runs that have ended as well: a message may be as late as it likes.
        run = data.draw(st.sampled_from([*self._unfinished(), self.all[0]]))
        self._delivered(data.draw(st.sampled_from(self._idle())), run)

    @precondition(lambda self: self._busy() and self._idle())
    @rule(data=st.data())
    def one_falls_silent_and_another_takes_over(self, data: st.DataObject) -> None:
        silent, other = data.draw(st.sampled_from(self._busy())), data.draw(st.sampled_from(self._idle()))
        self.time += (LEASE + 1) * SECOND
        assert silent.run is not None
        self._delivered(other, silent.run)
        self._take_turns(data, [silent, other])

    @precondition(lambda self: len(self._busy()) > 1)
    @rule(data=st.data())
    def several_go_on(self, data: st.DataObject) -> None:
        self._take_turns(data, self._busy())

    def _take_turns(self, data: st.DataObject, workers: list[Worker]) -> None:
        for worker in data.draw(st.lists(st.sampled_from(workers), min_size=2, max_size=8)):
            if worker.claim is not None:
                self._renews(worker)
                self._goes_on(worker, data.draw(OUTCOMES))

    def _delivered(self, worker: Worker, run: Run) -> None:
        free = run.status == "queued" or (run.status == "running" and (run.holder is None or run.until <= self.time))
        claim = self.world.run(self.journal.claim(run.id, f"worker-{worker.name}"))
        assert (claim is not None) == free
        if claim is None:
            return
        run.status, run.holder, run.fence = "running", worker.name, run.fence + 1
        run.until = self.time + LEASE * SECOND
        assert claim.fence == run.fence
        place = next(place for place, status in enumerate(run.steps) if status in ("queued", "running"))
        worker.run, worker.claim, worker.place, worker.begun, worker.end = run, claim, place, False, None

    @precondition(lambda self: self._busy())
    @rule(data=st.data())
    def one_renews(self, data: st.DataObject) -> None:
        self._renews(data.draw(st.sampled_from(self._busy())))

    def _renews(self, worker: Worker) -> None:
        assert worker.claim is not None and worker.run is not None
        held = worker.holds() and worker.run.holder == worker.name
        assert self.world.run(self.journal.renew(worker.claim)) == held
        if held:
            worker.run.until = self.time + LEASE * SECOND

    @precondition(lambda self: self._busy())
    @rule(data=st.data())
    def one_gives_the_run_back(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self._busy()))
        assert worker.claim is not None and worker.run is not None
        self.world.run(self.journal.release(worker.claim))
        if worker.holds():
            worker.run.holder = None
        worker.run = worker.claim = worker.end = None

    @precondition(lambda self: self._busy())
    @rule(data=st.data(), outcomes=st.lists(OUTCOMES, min_size=1, max_size=6))
    def one_goes_on(self, data: st.DataObject, outcomes: list[str]) -> None:
        worker = data.draw(st.sampled_from(self._busy()))
        for outcome in outcomes:
            if worker.claim is not None:
                self._goes_on(worker, outcome)

    @precondition(lambda self: self._busy())
    @rule(data=st.data(), early=st.booleans(), approved=st.booleans())
    def a_decision_comes_before_or_after_the_run_waits_for_it(
        self, data: st.DataObject, early: bool, approved: bool
    ) -> None:
        worker = data.draw(st.sampled_from(self._busy()))
        run = worker.run
        assert run is not None
        while worker.claim is not None and worker.end is None:
            self._goes_on(worker, "pending_approval")
        if early:
            self._decided(run, approved)
        if worker.claim is not None:
            self._goes_on(worker, "pending_approval")
        if data.draw(st.booleans()):
            self._decided(run, approved)
        if data.draw(st.booleans()):
            self._cancelled(run)

    def _goes_on(self, worker: Worker, outcome: str) -> None:
        run, claim = worker.run, worker.claim
        assert run is not None and claim is not None
        if not worker.begun:
            self._begins_a_step(worker, run, claim)
        elif worker.end is None:
            self._performs(worker, run, claim, outcome)
        else:
            self._ends_the_step(worker, run, claim, worker.end)

    def _begins_a_step(self, worker: Worker, run: Run, claim: Claim) -> None:
        if not worker.holds():
            with pytest.raises(LeaseLost):
                self.world.run(self.journal.begin_step(claim, worker.place))
            worker.run = worker.claim = None
            return
        end = conclude(run.steps, cancel=run.cancel)
        assert self.world.run(self.journal.begin_step(claim, worker.place)) == (end is None)
        if end is not None:
            self._ended(run, end)
            worker.run = worker.claim = None
            return
        run.steps[worker.place], worker.begun = "running", True

    def _performs(self, worker: Worker, run: Run, claim: Claim, outcome: str) -> None:
        """One attempt for each step, its intent written under the fence; or what the attempt there is came to."""
        place = worker.place
        allowed = self.world.write(lambda tx: RUNS.holds(tx, run.id, claim.fence))
        assert allowed == worker.holds()
        if not allowed:
            worker.run = worker.claim = None
            return
        if run.attempts[place] is None:
            run.attempts[place] = self._attempt(run, place, outcome)
            run.effects[place] += outcome != "pending_approval"
        worker.end = self._end_of(run, place)

    def _ends_the_step(self, worker: Worker, run: Run, claim: Claim, end: StepEnd) -> None:
        place, worker.end = worker.place, None
        if not worker.holds():
            with pytest.raises(LeaseLost):
                self.world.run(self.journal.end_step(claim, place, end))
            worker.run = worker.claim = None
            return
        decided = end.status == "pending_approval" and self._status(run, place) != "pending_approval"
        goes_on = self.world.run(self.journal.end_step(claim, place, end))
        if decided:
            assert goes_on
            return  # and looks at the attempt again
        run.steps[place] = end.status
        concluded = conclude(run.steps, cancel=run.cancel)
        assert goes_on == (concluded is None)
        if concluded is not None:
            self._ended(run, concluded)
            worker.run = worker.claim = None
        else:
            worker.place, worker.begun = place + 1, False

    @precondition(lambda self: self._waiting())
    @rule(data=st.data(), approved=st.booleans())
    def somebody_decides(self, data: st.DataObject, approved: bool) -> None:
        self._decided(data.draw(st.sampled_from(self._waiting())), approved)

    def _waiting(self) -> list[Run]:
        return [run for run in self.all if run.status == "pending_approval"]

    def _decided(self, run: Run, approved: bool) -> None:
        place = next((at for at in range(len(run.steps)) if self._status(run, at) == "pending_approval"), None)
        if place is None:
            return
        attempt_id, becomes = run.attempts[place], "succeeded" if approved else "denied"

        def unit(tx: Tx) -> bool:
            assert tx.run(_SET_ATTEMPT, attempt=attempt_id, was="pending_approval", becomes=becomes) == 1
            return RUNS.resume_after_decision(tx, run.id, f"s{place}", self.time)

        waited = run.status == "pending_approval"
        assert self.world.write(unit) == waited
        run.effects[place] += approved
        if waited:
            run.status, run.steps[place], run.holder = "queued", "running", None

    @precondition(lambda self: self._busy() or self._waiting())
    @rule(data=st.data())
    def somebody_cancels(self, data: st.DataObject) -> None:
        worked_on = [worker.run for worker in self._busy() if worker.run is not None]
        self._cancelled(data.draw(st.sampled_from([*worked_on, *self._waiting()])))

    @precondition(lambda self: len(self._unfinished()) == 3)
    @rule()
    def somebody_cancels_the_newest(self) -> None:
        self._cancelled(self._unfinished()[-1])

    def _cancelled(self, run: Run) -> None:
        if run.finished:
            with pytest.raises(Conflict):
                self.world.run(self.journal.cancel(WHO, run.id, "req_2"))
            return
        asked_before = run.cancel
        status = self.world.run(self.journal.cancel(WHO, run.id, "req_2"))
        if asked_before:
            assert status == run.status
            return
        run.cancel = True
        if run.status == "pending_approval" or (run.status == "queued" and "running" not in run.steps):
            run.steps = ["cancelled" if status == "pending_approval" else status for status in run.steps]
            self._ended(run, "cancelled")
        assert status == run.status

    def _attempt(self, run: Run, place: int, status: str) -> str:
        attempt_id = new_id("att")
        blank: dict[str, Any] = {
            column.name: None if column.nullable else "" if isinstance(column.type, Text) else 0
            for column in attempts.columns
        }
        values = {"id": attempt_id, "workspace_id": "default", "run_id": run.id, "step_id": f"s{place}"}
        self.world.write(lambda tx: tx.run(_INSERT_ATTEMPT, **{**blank, **values, "status": status}))
        return attempt_id

    def _status(self, run: Run, place: int) -> str | None:
        attempt_id = run.attempts[place]
        return None if attempt_id is None else self.world.write(lambda tx: RUNS.attempt_status(tx, attempt_id))

    def _end_of(self, run: Run, place: int) -> StepEnd:
        status = self._status(run, place)
        assert status is not None
        attempt_id = str(run.attempts[place])
        state = AttemptState(attempt_id, status, "test.say", 1, "write", "", "", None, None, None, 0, None)
        end = end_of_attempt(state)
        assert end is not None
        return end

    def _ended(self, run: Run, status: str) -> None:
        run.status, run.holder = status, None
        if run.finished:
            run.steps = ["cancelled" if status == "queued" else status for status in run.steps]

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        for run in self.all:
            self._agrees(run)

    def _agrees(self, run: Run) -> None:
        database = self.world.database
        row = self.world.run(RUNS.find(database.reader, run.id))
        steps = self.world.run(RUNS.steps_of(database.reader, [run.id]))[run.id]
        events = self.world.run(RUNS.events_after(database.reader, run.id, 0, 1000))
        assert row is not None
        assert (row.status, row.fence) == (run.status, run.fence)
        assert [step.status for step in steps] == run.steps
        assert (row.lease_owner is not None) == (run.holder is not None)
        assert (row.finished_at is not None) == run.finished
        assert not run.finished or not {"queued", "running", "pending_approval"} & {*run.steps}
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        told = [event.status for event in events if event.kind == "run" and event.status != "cancel_requested"]
        assert told[-1] == run.status and not FINISHED & {*told[:-1]}, "an end is the last word"
        assert max(run.effects) <= 1, "nothing was done twice"
        for status, effects in zip(run.steps, run.effects, strict=True):
            assert not (status in ("queued", "cancelled") and effects), "what did not begin did nothing"

    def teardown(self) -> None:
        """However it was left: people decide, time passes, one process sweeps, and every run ends, once."""
        for run in self.all:
            self._decided(run, approved=True)
        self.time += (LEASE + 1) * SECOND
        self.everybody.clear()
        waiting = self.world.run(RunsOfAllWorkspaces.waiting(self.world.database.reader, self.time, 10_000))
        for run in self.all:
            assert (run.id in waiting) == (run.status in ("queued", "running"))
            last = self._worker()
            while run.status in ("queued", "running"):
                if last.claim is None:
                    self._delivered(last, run)
                self._goes_on(last, "succeeded")
        assert all(run.finished for run in self.all)
        self.the_database_says_what_the_model_says()
        for run in self.all:
            statement = select(audit_events.c.outcome).where(
                audit_events.c.target == run.id, audit_events.c.tag == "runs:run:finished"
            )
            assert self.world.run(self.world.database.reader.all(statement)) == [(run.status,)]
        self.clock.stop()


def test_whatever_happens_in_whatever_order_each_run_ends_once_and_does_nothing_twice(sqlite_target: Target) -> None:
    with asyncio.Runner() as runner:
        database = Database(sqlite_target, Recorder(Envelopes.of(bytes(32))).finish)
        runner.run(database.start())
        RunsMachine.world = World(runner, database)
        try:
            run_state_machine_as_test(
                RunsMachine,
                settings=settings(
                    max_examples=30,
                    stateful_step_count=30,
                    deadline=None,
                    phases=[Phase.generate],  # to shrink a failure takes longer than a test may
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.stop())
