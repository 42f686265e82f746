"""The transitions of a run, each one transaction: its rows, its events and, at its end, its audit row.

Every transition locks the run's row first, so that two processes take turns, and looks before it writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from relay.audit.record import event
from relay.core.clock import MICROSECONDS, now
from relay.core.principal import Principal
from relay.core.problem import Conflict, Denied, NotFound
from relay.runs.changes import Changes
from relay.runs.machine import FINISHED, Status, StepEnd, conclude
from relay.store.database import Database
from relay.store.runs import RunRepository, RunRow, RunsOfAllWorkspaces, StepRow
from relay.store.writer import Tx

T = TypeVar("T")
LEASE_SECONDS: Final = 15

Recall = Callable[[Tx, str, str], bool]
"""Given a transaction, a workspace and an attempt: cancel it, and its approval, if its effect has not begun; say so."""


class LeaseLost(Exception):
    """Another process works on the run now, or the run has ended: stop working on it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this process works on: its row and its steps when it was claimed, and the fence that this raised."""

    run: RunRow
    steps: tuple[StepRow, ...]
    fence: int


class Journal:
    """Writes the transitions of runs. ``lease_seconds`` is how long a silent worker keeps its run.

    ``recall`` cancels attempts that wait: for an approval, or for their time.
    """

    def __init__(
        self,
        database: Database,
        changes: Changes,
        *,
        lease_seconds: float = LEASE_SECONDS,
        recall: Recall | None = None,
    ) -> None:
        self._database = database
        self._changes = changes
        self._recall = recall
        self.lease_seconds = lease_seconds

    async def claim(self, run_id: str, owner: str) -> Claim | None:
        """Take the lease of a run that is queued, or whose lease is over; None when there is nothing to do.

        ``owner`` says who it is, for people. The fence rises and so shuts out whoever held an earlier lease.
        """
        workspace = await RunsOfAllWorkspaces.workspace_of(self._database.reader, run_id)
        if workspace is None:
            return None
        runs = RunRepository(workspace)

        def unit(tx: Tx) -> Claim | None:
            run = runs.lock(tx, run_id)
            at = now()
            if run is None or run.status not in ("queued", "running"):
                return None
            if run.lease_owner is not None and (run.lease_until or 0) > at:
                return None
            steps = tuple(runs.steps(tx, run_id))
            runs.claim(tx, run_id, owner=owner, until=self._lease_end(at))
            if run.status == "queued":
                runs.append_events(tx, run_id, at, [("run", "", "running")])
            return Claim(run, steps, run.fence + 1)

        return await self._write(unit, run_id)

    async def renew(self, claim: Claim) -> bool:
        """Prolong the lease; False when it is lost."""
        runs, run_id = RunRepository(claim.run.workspace_id), claim.run.id
        return await self._database.writer.run(
            lambda tx: runs.prolong(tx, run_id, fence=claim.fence, until=self._lease_end(now())), outcome=True
        )

    async def release(self, claim: Claim) -> None:
        """Give the run back as it is, for whoever sweeps next."""
        runs, run_id = RunRepository(claim.run.workspace_id), claim.run.id
        await self._database.writer.run(lambda tx: runs.release(tx, run_id, fence=claim.fence), outcome=True)

    async def set_aside(self, claim: Claim, until: int) -> bool:
        """Give the run back for whoever sweeps after ``until`` (microseconds), or once there is something to do.

        False when there is something to do now: somebody asked to cancel the run before its attempt had begun to wait.
        The attempt is cancelled then.
        """
        runs, run_id = RunRepository(claim.run.workspace_id), claim.run.id

        def unit(tx: Tx) -> bool:
            run = runs.lock(tx, run_id)
            cancel = run is not None and run.fence == claim.fence and run.cancel_requested_at is not None
            if cancel:
                self._recall_all(tx, runs, run_id)
            runs.release(tx, run_id, fence=claim.fence, until=None if cancel else until)
            return not cancel

        return await self._database.writer.run(unit, outcome=True)

    async def begin_step(self, claim: Claim, place: int) -> bool:
        """Mark a step as running; False when the run has come to its end instead (it was cancelled).

        :class:`LeaseLost` when this is not the holder's to do any more.
        """
        runs = RunRepository(claim.run.workspace_id)

        def unit(tx: Tx) -> bool:
            run, at = self._held(tx, runs, claim), now()
            steps = runs.steps(tx, run.id)
            status = conclude([step.status for step in steps], cancel=run.cancel_requested_at is not None)
            if status is not None:
                _end(tx, runs, run, steps, status, at)
                return False
            if steps[place].status == "queued":
                runs.set_step(tx, steps[place], "running")
                runs.append_events(tx, run.id, at, [("step", steps[place].step_id, "running")])
            return True

        return await self._write(unit, claim.run.id)

    async def end_step(self, claim: Claim, place: int, end: StepEnd) -> bool:
        """Write what a step came to, and the run's end if that is one; return whether the run goes on.

        A step is not left waiting for an approval that has been decided meanwhile: then nothing is written and it is
        still under way. Safe to repeat when it is not known whether it was written. :class:`LeaseLost` as above.
        """
        runs = RunRepository(claim.run.workspace_id)

        def unit(tx: Tx) -> bool:
            run, at = self._held(tx, runs, claim), now()
            steps = runs.steps(tx, run.id)
            statuses = [step.status for step in steps]
            if end.status == "pending_approval" and run.cancel_requested_at is not None:
                self._recall_all(tx, runs, run.id)
            if statuses[place] != "running" or _decided(tx, runs, end):
                return True
            statuses[place] = end.status
            runs.set_step(tx, steps[place], end.status, attempt_id=end.attempt_id, error=end.error)
            runs.append_events(tx, run.id, at, [("step", steps[place].step_id, end.status)])
            status = conclude(statuses, cancel=run.cancel_requested_at is not None)
            if status is not None:
                _end(tx, runs, run, [step for step in steps if step.position != place], status, at)
            return status is None

        return await self._write(unit, claim.run.id)

    async def cancel(self, principal: Principal, run_id: str, request_id: str) -> Status:
        """Cancel a run of the principal's workspace and return its status: at once, or after the step under way.

        An attempt whose effect has not begun is cancelled with it. For whoever started the run and for persons; 403
        for anybody else. 404 for any other run, 409 for one that has ended.
        Asking again is harmless.
        """
        runs = RunRepository(principal.workspace_id)
        draft = event(
            "runs:run:cancelled",
            workspace_id=principal.workspace_id,
            principal=principal.id,
            request_id=request_id,
            target=run_id,
        )

        def unit(tx: Tx) -> Status:
            run, at = runs.lock(tx, run_id), now()
            _require_cancellable(run, principal)
            assert run is not None
            if run.cancel_requested_at is not None:
                return run.status  # type: ignore[return-value]
            steps = runs.steps(tx, run_id)
            waiting = [step for step in steps if step.status == "pending_approval"]
            if waiting and self._recall is None:
                raise Conflict("This run waits for an approval; deny that to end it.", run_status=run.status)
            runs.ask_to_cancel(tx, run_id, at)
            tx.record(draft)
            # An attempt that has begun comes to its end, which whoever works on the run waits for.
            begun = [step for step in steps if not self._recalled(tx, runs, step, at)]
            if run.status == "running" or begun:
                runs.append_events(tx, run_id, at, [("run", "", "cancel_requested")])
                return "running" if run.status == "running" else "queued"
            _end(tx, runs, run, steps, "cancelled", at)
            return "cancelled"

        return await self._write(unit, run_id)

    def _recalled(self, tx: Tx, runs: RunRepository, step: StepRow, at: int) -> bool:
        """Cancel the attempt of a step that waits; False when the step is under way all the same."""
        if step.status not in ("running", "pending_approval"):
            return True
        attempt_id = step.attempt_id or runs.attempt_made(tx, step.run_id, step.step_id)
        recalled = (
            attempt_id is not None and self._recall is not None and self._recall(tx, step.workspace_id, attempt_id)
        )
        if step.status == "running":
            return False
        if not recalled:
            runs.resume_after_decision(tx, step.run_id, step.step_id, at)
        return recalled

    def _recall_all(self, tx: Tx, runs: RunRepository, run_id: str) -> None:
        """Cancel what waits of a run that somebody asked to cancel before it waited."""
        for step in runs.steps(tx, run_id):
            self._recalled(tx, runs, step, now())

    async def resume(self, workspace_id: str, run_id: str, step_id: str) -> bool:
        """Let a run go on that waits for an approval which is decided; False when it does not wait."""
        runs = RunRepository(workspace_id)
        return await self._write(lambda tx: runs.resume_after_decision(tx, run_id, step_id, now()), run_id)

    async def void_leases(self) -> int:
        """Take back every lease: right at the start of the only process that works on this database."""
        return await self._database.writer.run(RunsOfAllWorkspaces.void_leases)

    @staticmethod
    def _held(tx: Tx, runs: RunRepository, claim: Claim) -> RunRow:
        run = runs.lock(tx, claim.run.id)
        if run is None or run.status != "running" or run.lease_owner is None or run.fence != claim.fence:
            raise LeaseLost(claim.run.id)
        return run

    def _lease_end(self, at: int) -> int:
        return at + round(self.lease_seconds * MICROSECONDS)

    async def _write(self, unit: Callable[[Tx], T], run_id: str) -> T:
        result = await self._database.writer.run(unit, outcome=True)
        self._changes.notify(run_id)
        return result


def _require_cancellable(run: RunRow | None, principal: Principal) -> None:
    if run is None:
        raise NotFound("There is no such run in this workspace.")
    if principal.id != run.principal_id and principal.kind != "person":
        raise Denied("A run is cancelled by the key that started it, or by a person.")
    if run.status in FINISHED:
        raise Conflict("This run has ended.", run_status=run.status)


def _decided(tx: Tx, runs: RunRepository, end: StepEnd) -> bool:
    """Say whether an attempt that asked for an approval does not wait for it any more.

    Whoever decides looks at the run after the attempt, in one transaction, and the run is locked here: one of the two
    sees what the other has done.
    """
    if end.status != "pending_approval" or end.attempt_id is None:
        return False
    return runs.attempt_status(tx, end.attempt_id) != "pending_approval"


def _end(tx: Tx, runs: RunRepository, run: RunRow, steps: Sequence[StepRow], status: Status, at: int) -> None:
    """Give the run its status and its lease back. At its end the steps that have not begun are cancelled."""
    finished = status in FINISHED
    changes: list[tuple[str, str, str]] = []
    for step in steps if finished else ():
        if step.status in ("queued", "pending_approval"):
            runs.set_step(tx, step, "cancelled", attempt_id=step.attempt_id)
            changes.append(("step", step.step_id, "cancelled"))
    runs.set_status(tx, run.id, status, finished_at=at if finished else None, owner=None, until=None)
    runs.append_events(tx, run.id, at, [*changes, ("run", "", status)])
    if finished:
        tx.record(
            event(
                "runs:run:finished",
                workspace_id=run.workspace_id,
                principal=run.principal_id,
                request_id=run.request_id,
                target=run.id,
                outcome=status,
            )
        )
