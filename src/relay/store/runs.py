"""Runs: their steps, their leases and the events that streams follow."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Table, and_, bindparam, case, func, insert, null, or_, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import attempts, run_events, run_steps, runs
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run. Whoever holds the lease (``lease_owner`` until ``lease_until``) works on it.

    A running one without an owner has been set aside until ``lease_until``: before that there is nothing to do.

    ``fence`` grows with each claim: a number that is not the row's any more belongs to somebody who was replaced.
    """

    id: str
    workspace_id: str
    principal_id: str
    plan_id: str | None
    request_id: str
    status: str
    created_at: int
    finished_at: int | None = None
    cancel_requested_at: int | None = None
    fence: int = 0
    lease_owner: str | None = None
    lease_until: int | None = None


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of a run. ``summary`` is the action's own, without anything a caller wrote; ``depends_on`` is JSON."""

    run_id: str
    workspace_id: str
    position: int
    step_id: str
    action: str
    summary: str
    depends_on: str
    status: str
    attempt_id: str | None = None
    error_code: str | None = None
    error_detail: str | None = None

    def dependencies(self) -> list[str]:
        """Return the ids of the steps that this one depends on."""
        return [str(step_id) for step_id in from_json(self.depends_on)]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """A change of status, numbered from 1 within its run. ``step_id`` is empty for the run itself."""

    run_id: str
    seq: int
    workspace_id: str
    occurred_at: int
    kind: str
    step_id: str
    status: str


def _columns(table: Table, row: type) -> list[Any]:
    return [table.c[field.name] for field in fields(row)]


def _values(row: RunRow | StepRow | RunEvent) -> dict[str, Any]:
    return {field.name: value for field, value in zip(fields(row), astuple(row), strict=True)}


_RUN = _columns(runs, RunRow)
_STEP = _columns(run_steps, StepRow)
_EVENT = _columns(run_events, RunEvent)

_THIS_RUN = and_(runs.c.id == bindparam("run"), runs.c.workspace_id == bindparam("ws"))
_THESE_STEPS = and_(run_steps.c.run_id == bindparam("run"), run_steps.c.workspace_id == bindparam("ws"))
_THESE_EVENTS = and_(run_events.c.run_id == bindparam("run"), run_events.c.workspace_id == bindparam("ws"))

_INSERT_RUN = Query(insert(runs))
_INSERT_STEP = Query(insert(run_steps))
_INSERT_EVENT = Query(insert(run_events))
_LOCK = Query(select(*_RUN).where(_THIS_RUN).with_for_update())
_STEPS = Query(select(*_STEP).where(_THESE_STEPS).order_by(run_steps.c.position))
_LAST_EVENT = Query(select(func.coalesce(func.max(run_events.c.seq), 0)).where(_THESE_EVENTS))
_SET_STATUS = Query(
    update(runs)
    .where(_THIS_RUN)
    .values(
        status=bindparam("to_status"),
        finished_at=bindparam("finished"),
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until"),
    )
)
_CLAIM = Query(
    update(runs)
    .where(_THIS_RUN)
    .values(
        status="running",
        fence=runs.c.fence + 1,
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until"),
    )
)
_HELD = and_(
    _THIS_RUN,
    runs.c.status == "running",
    runs.c.fence == bindparam("held"),
    runs.c.lease_owner.is_not(None),
)
_HOLDS = Query(select(runs.c.id).where(_HELD).with_for_update())
_PROLONG = Query(update(runs).where(_HELD).values(lease_until=bindparam("until")))
_RELEASE = Query(update(runs).where(_HELD).values(lease_owner=None, lease_until=bindparam("until")))
_ASK_TO_CANCEL = Query(
    update(runs)
    .where(_THIS_RUN)
    .values(
        cancel_requested_at=bindparam("moment"),
        lease_until=case((runs.c.lease_owner.is_(None), null()), else_=runs.c.lease_until),
    )
)
_SET_STEP = Query(
    update(run_steps)
    .where(_THESE_STEPS, run_steps.c.position == bindparam("place"))
    .values(
        status=bindparam("to_status"),
        attempt_id=bindparam("attempt"),
        error_code=bindparam("code"),
        error_detail=bindparam("detail"),
    )
)
_ATTEMPT_STATUS = Query(
    select(attempts.c.status).where(attempts.c.id == bindparam("attempt"), attempts.c.workspace_id == bindparam("ws"))
)
_ATTEMPT_MADE = Query(
    select(attempts.c.id).where(
        attempts.c.run_id == bindparam("run"),
        attempts.c.step_id == bindparam("step"),
        attempts.c.workspace_id == bindparam("ws"),
    )
)
_VOID_LEASES = Query(
    update(runs)
    .where(runs.c.status == "running", runs.c.lease_owner.is_not(None))
    .values(lease_owner=None, lease_until=None)
)


class RunRepository:
    """The runs of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def insert(self, tx: Tx, run: RunRow, steps: Sequence[StepRow]) -> None:
        """Add a run with its steps; ValueError for one of another workspace."""
        if {run.workspace_id, *(step.workspace_id for step in steps)} != {self._workspace}:
            raise ValueError("the run belongs to another workspace")
        tx.run(_INSERT_RUN, **_values(run))
        tx.many(_INSERT_STEP, [_values(step) for step in steps])

    def lock(self, tx: Tx, run_id: str) -> RunRow | None:
        """Return a run and keep it, its steps and its events unchanged by others until the transaction ends."""
        row = tx.one(_LOCK, run=run_id, ws=self._workspace)
        return RunRow(*row) if row else None

    def steps(self, tx: Tx, run_id: str) -> list[StepRow]:
        """Return the steps in their order."""
        return [StepRow(*row) for row in tx.all(_STEPS, run=run_id, ws=self._workspace)]

    def set_status(
        self, tx: Tx, run_id: str, status: str, *, finished_at: int | None, owner: str | None, until: int | None
    ) -> None:
        """Give a locked run a status and a lease, or none."""
        tx.run(
            _SET_STATUS,
            run=run_id,
            ws=self._workspace,
            to_status=status,
            finished=finished_at,
            owner=owner,
            until=until,
        )

    def claim(self, tx: Tx, run_id: str, *, owner: str, until: int) -> None:
        """Give a locked run to ``owner`` and raise its fence by one."""
        tx.run(_CLAIM, run=run_id, ws=self._workspace, owner=owner, until=until)

    def prolong(self, tx: Tx, run_id: str, *, fence: int, until: int) -> bool:
        """Prolong the lease that was taken with ``fence``; False when that is over."""
        return tx.run(_PROLONG, run=run_id, ws=self._workspace, held=fence, until=until) == 1

    def release(self, tx: Tx, run_id: str, *, fence: int, until: int | None = None) -> bool:
        """Give the lease back that was taken with ``fence``; False when that is over. ``until`` sets the run aside."""
        return tx.run(_RELEASE, run=run_id, ws=self._workspace, held=fence, until=until) == 1

    def holds(self, tx: Tx, run_id: str, fence: int) -> bool:
        """Say whether whoever claimed the run with ``fence`` still holds it, and keep it so until the commit."""
        return tx.one(_HOLDS, run=run_id, ws=self._workspace, held=fence) is not None

    def ask_to_cancel(self, tx: Tx, run_id: str, moment: int) -> None:
        """Leave word for whoever works on the run; one that was set aside waits no longer."""
        tx.run(_ASK_TO_CANCEL, run=run_id, ws=self._workspace, moment=moment)

    def set_step(
        self,
        tx: Tx,
        step: StepRow,
        status: str,
        *,
        attempt_id: str | None = None,
        error: tuple[str, str] | None = None,
    ) -> None:
        """Give a step of a locked run a status; ``error`` is a code and a sentence."""
        code, detail = error or (None, None)
        tx.run(
            _SET_STEP,
            run=step.run_id,
            ws=self._workspace,
            place=step.position,
            to_status=status,
            attempt=attempt_id,
            code=code,
            detail=detail,
        )

    def attempt_made(self, tx: Tx, run_id: str, step_id: str) -> str | None:
        """Return the id of the attempt that was made for a step, or None."""
        row = tx.one(_ATTEMPT_MADE, run=run_id, step=step_id, ws=self._workspace)
        return str(row[0]) if row else None

    def attempt_status(self, tx: Tx, attempt_id: str) -> str | None:
        """Return the status of an attempt, or None when there is none."""
        row = tx.one(_ATTEMPT_STATUS, attempt=attempt_id, ws=self._workspace)
        return str(row[0]) if row else None

    def resume_after_decision(self, tx: Tx, run_id: str, step_id: str, at: int) -> bool:
        """Let a run go on whose step has waited for an approval; False, and nothing written, when it does not wait.

        For the transaction that decides. The run is queued again and its step running: whoever claims the run takes
        what the step's attempt comes to, be that denied or expired.
        """
        run = self.lock(tx, run_id)
        if run is None or run.status != "pending_approval":
            return False
        waiting = [step for step in self.steps(tx, run_id) if step.step_id == step_id]
        if not waiting or waiting[0].status != "pending_approval":
            return False
        self.set_step(tx, waiting[0], "running", attempt_id=waiting[0].attempt_id)
        self.set_status(tx, run_id, "queued", finished_at=None, owner=None, until=None)
        self.append_events(tx, run_id, at, [("step", step_id, "running"), ("run", "", "queued")])
        return True

    def append_events(self, tx: Tx, run_id: str, moment: int, changes: Sequence[tuple[str, str, str]]) -> None:
        """Number and add events (kind, step id, status) of a locked run."""
        found = tx.one(_LAST_EVENT, run=run_id, ws=self._workspace)
        last = int(found[0]) if found else 0
        events = [
            RunEvent(run_id, last + place, self._workspace, moment, kind, step_id, status)
            for place, (kind, step_id, status) in enumerate(changes, start=1)
        ]
        tx.many(_INSERT_EVENT, [_values(event) for event in events])

    async def find(self, reader: Reader, run_id: str) -> RunRow | None:
        """Return a run, or None."""
        row = await reader.one(select(*_RUN).where(runs.c.id == run_id, runs.c.workspace_id == self._workspace))
        return RunRow(*row) if row else None

    async def page(self, reader: Reader, limit: int, before: str | None) -> list[RunRow]:
        """Return up to ``limit`` runs, newest first, older than ``before``."""
        statement = select(*_RUN).where(runs.c.workspace_id == self._workspace)
        if before is not None:
            statement = statement.where(runs.c.id < before)
        return [RunRow(*row) for row in await reader.all(statement.order_by(runs.c.id.desc()).limit(limit))]

    async def steps_of(self, reader: Reader, run_ids: Sequence[str]) -> dict[str, list[StepRow]]:
        """Return the steps of several runs, by run and in order."""
        statement = (
            select(*_STEP)
            .where(run_steps.c.workspace_id == self._workspace, run_steps.c.run_id.in_(run_ids))
            .order_by(run_steps.c.run_id, run_steps.c.position)
        )
        found: defaultdict[str, list[StepRow]] = defaultdict(list)
        for row in await reader.all(statement):
            step = StepRow(*row)
            found[step.run_id].append(step)
        return found

    async def events_after(self, reader: Reader, run_id: str, seq: int, limit: int) -> list[RunEvent]:
        """Return up to ``limit`` events that follow number ``seq``."""
        statement = (
            select(*_EVENT)
            .where(run_events.c.run_id == run_id, run_events.c.workspace_id == self._workspace)
            .where(run_events.c.seq > seq)
            .order_by(run_events.c.seq)
            .limit(limit)
        )
        return [RunEvent(*row) for row in await reader.all(statement)]

    async def last_event(self, reader: Reader, run_id: str) -> int:
        """Return the number of a run's newest event; 0 when there is none."""
        row = await reader.one(
            select(func.max(run_events.c.seq)).where(
                run_events.c.run_id == run_id, run_events.c.workspace_id == self._workspace
            )
        )
        return int(row[0] or 0) if row else 0

    async def step_began(self, reader: Reader, run_id: str, step_id: str) -> int | None:
        """Return when a step became running for the last time, None when it never did."""
        row = await reader.one(
            select(func.max(run_events.c.occurred_at)).where(
                run_events.c.run_id == run_id,
                run_events.c.workspace_id == self._workspace,
                run_events.c.step_id == step_id,
                run_events.c.status == "running",
            )
        )
        return int(row[0]) if row and row[0] is not None else None

    async def attempt_of(self, reader: Reader, run_id: str, step_id: str) -> str | None:
        """Return the id of the attempt that was made for a step, or None."""
        row = await reader.one(
            select(attempts.c.id).where(
                attempts.c.run_id == run_id,
                attempts.c.step_id == step_id,
                attempts.c.workspace_id == self._workspace,
            )
        )
        return str(row[0]) if row else None


class RunsOfAllWorkspaces:
    """What the runner alone needs: which runs wait, wherever they belong."""

    @staticmethod
    async def waiting(reader: Reader, moment: int, limit: int) -> list[str]:
        """Return runs that nobody works on: queued ones, and running ones whose lease is over; oldest first."""
        statement = (
            select(runs.c.id)
            .where(
                or_(
                    runs.c.status == "queued",
                    and_(runs.c.status == "running", or_(runs.c.lease_until.is_(None), runs.c.lease_until <= moment)),
                )
            )
            .order_by(runs.c.id)
            .limit(limit)
        )
        return [str(row[0]) for row in await reader.all(statement)]

    @staticmethod
    async def set_aside_in_vain(reader: Reader, moment: int, limit: int) -> list[str]:
        """Return runs that are set aside beyond ``moment`` although the attempt of their step has ended."""
        statement = (
            select(runs.c.id)
            .join(run_steps, run_steps.c.run_id == runs.c.id)
            .join(attempts, and_(attempts.c.run_id == runs.c.id, attempts.c.step_id == run_steps.c.step_id))
            .where(runs.c.status == "running", runs.c.lease_owner.is_(None), runs.c.lease_until > moment)
            .where(run_steps.c.status == "running", attempts.c.status.not_in(("ready", "running")))
            .order_by(runs.c.id)
            .limit(limit)
        )
        return [str(row[0]) for row in await reader.all(statement)]

    @staticmethod
    async def decided(reader: Reader, limit: int) -> list[tuple[str, str, str]]:
        """Return workspace, run and step where a run waits for an approval that its attempt waits for no more."""
        statement = (
            select(runs.c.workspace_id, runs.c.id, run_steps.c.step_id)
            .join(run_steps, run_steps.c.run_id == runs.c.id)
            .join(attempts, attempts.c.id == run_steps.c.attempt_id)
            .where(runs.c.status == "pending_approval", run_steps.c.status == "pending_approval")
            .where(attempts.c.status != "pending_approval")
            .limit(limit)
        )
        return [(str(row[0]), str(row[1]), str(row[2])) for row in await reader.all(statement)]

    @staticmethod
    async def workspace_of(reader: Reader, run_id: str) -> str | None:
        """Return the workspace of a run, or None when there is no such run."""
        row = await reader.one(select(runs.c.workspace_id).where(runs.c.id == run_id))
        return str(row[0]) if row else None

    @staticmethod
    def void_leases(tx: Tx) -> int:
        """Take back every lease and return how many; right only where no other process can be working."""
        return tx.run(_VOID_LEASES)
