"""Working through one run, step by step, while its lease is held."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from relay.core.clock import MICROSECONDS, now
from relay.core.principal import Principal
from relay.core.problem import Problem, Unauthenticated, Unavailable
from relay.core.references import BadReference, find_references, resolve
from relay.gate.ask import Ask, AskerReplaced, AttemptState
from relay.gate.authenticate import Credentials
from relay.gate.perform import Performer
from relay.runs.journal import Claim, Journal, LeaseLost
from relay.runs.machine import StepEnd, end_of_attempt, end_of_refusal, next_step
from relay.runs.steps import Inputs, RunStep, steered, unpack
from relay.store.database import Database
from relay.store.runs import RunRepository
from relay.store.vault import Vault
from relay.store.writer import StoreUnavailable, Tx
from relay.telemetry import context
from relay.telemetry.spans import root
from relay.telemetry.traceparent import parse_traceparent

T = TypeVar("T")

PURPOSE: Final = "run"
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
LONGEST_LOOK_SECONDS: Final = 1.0
LONGEST_LIMITED_SECONDS: Final = 300.0
LONGEST_IN_PLACE_SECONDS: Final = 3.0
_BUSY: Final = 429
_REVOKED: Final = StepEnd(
    "failed", None, ("credential_revoked", "The API key that started this run is not valid any more.")
)
_BROKEN: Final = StepEnd(
    "failed", None, ("internal", "Something broke inside Relay; the request id leads to it in the log.")
)
_ERASED: Final = StepEnd("failed", None, ("inputs_erased", "The inputs of this run were erased after their retention."))

log = logging.getLogger("relay.runs")


class Interrupted(Exception):
    """The process stops: leave the run where it is, for whoever comes next."""


class SetAside(Exception):
    """Nothing can be done about the run before ``until`` (microseconds): let others have the place meanwhile."""

    def __init__(self, until: int) -> None:
        super().__init__(until)
        self.until = until


class Hold(Protocol):
    """What the work asks of whoever holds the lease for it."""

    async def pause(self, seconds: float) -> None:
        """Wait; :class:`Interrupted` when the process stops, ``LeaseLost`` when the lease is gone."""
        ...

    def ensure(self) -> None:
        """Return while the lease is held and the process goes on; raise as above otherwise."""
        ...


class Work:
    """One run being worked on. Nothing in here runs an action: every step is the gate's to perform."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        gate: Performer,
        credentials: Credentials,
        journal: Journal,
        claim: Claim,
        hold: Hold,
    ) -> None:
        self._database = database
        self._vault = vault
        self._gate = gate
        self._credentials = credentials
        self._journal = journal
        self._claim = claim
        self._hold = hold
        self._runs = RunRepository(claim.run.workspace_id)
        self._attempts = {step.step_id: step.attempt_id for step in claim.steps if step.status == "succeeded"}
        self._results: dict[str, Any] = {}

    async def go(self) -> None:
        """Continue at the first step that has not ended, up to the run's end.

        :class:`~relay.runs.journal.LeaseLost`, :class:`Interrupted` or :class:`SetAside` when it stops before that;
        the run is then as it was after the last transition that was written.
        """
        inputs = await self._insist(self._inputs)
        first = next_step([step.status for step in self._claim.steps])
        for place in range(len(self._claim.steps) if first is None else first, len(self._claim.steps)):
            begun_before = self._claim.steps[place].status == "running"
            self._hold.ensure()
            if not await self._insist(partial(self._journal.begin_step, self._claim, place)):
                return
            while True:
                end = await self._step(inputs, place, begun_before)
                if not await self._ended(place, end):
                    return
                if end.status != "pending_approval":
                    break
                begun_before = True  # it was decided before the run could begin to wait: take what it comes to

    async def _ended(self, place: int, end: StepEnd) -> bool:
        """Write what a step came to. What the database will never take loses its words, not what it says."""
        try:
            return await self._insist(partial(self._journal.end_step, self._claim, place, end))
        except (LeaseLost, Interrupted):
            raise
        except Exception as error:  # whatever the driver calls it: the run would be taken up again for ever
            log.error("the end of a step of %s cannot be written", self._claim.run.id, exc_info=error)
            plain = replace(end, error=None if end.error is None else _BROKEN.error)
            return await self._insist(partial(self._journal.end_step, self._claim, place, plain))

    async def _inputs(self) -> Inputs | None:
        run = self._claim.run
        sealed = await self._vault.open(workspace=run.workspace_id, purpose=PURPOSE, record_id=run.id)
        return None if sealed is None else unpack(sealed)

    async def _step(self, inputs: Inputs | None, place: int, begun_before: bool) -> StepEnd:
        if inputs is None:
            return _ERASED
        step, run = inputs.steps[place], self._claim.run
        parent = parse_traceparent(inputs.traceparent.encode())
        about = {"relay.action": step.action, "relay.run_id": run.id, "relay.request_id": run.request_id}
        try:
            with context.bound(step_id=step.id), root("run step", parent=parent, about=about) as recording:
                end = await self._worked(inputs, place, begun_before)
                recording.set(relay__status=end.status)
                return end
        except (LeaseLost, Interrupted, SetAside):
            raise
        except AskerReplaced:
            raise LeaseLost(self._claim.run.id) from None
        except Exception as error:  # a defect must not repeat itself for ever, nor pass for a definite outcome
            log.error("step %s of %s broke: %s", step.id, self._claim.run.id, type(error).__name__, exc_info=error)
            return await self._insist(lambda: self._end_of_existing(step.id)) or _BROKEN

    async def _worked(self, inputs: Inputs, place: int, begun_before: bool) -> StepEnd:
        step = inputs.steps[place]
        if begun_before and (end := await self._insist(lambda: self._end_of_existing(step.id))) is not None:
            # Whoever worked on this before may have got this far: that attempt counts, whatever has changed since.
            return end
        try:
            params = resolve(step.params, await self._insist(lambda: self._results_for(step)))
        except BadReference as error:
            return StepEnd("failed", None, ("bad_reference", f"params{error.place}: {error}"))
        begun_at = await self._insist(lambda: self._runs.step_began(self._database.reader, self._claim.run.id, step.id))
        until = (begun_at or now()) + round(LONGEST_LIMITED_SECONDS * MICROSECONDS)
        return await self._insist(lambda: self._performed(inputs, place, params, until))

    async def _performed(self, inputs: Inputs, place: int, params: dict[str, Any], until: int) -> StepEnd:
        """Have the gate perform a step. Limits are waited for; what still meets them after ``until`` has failed."""
        run, step = self._claim.run, inputs.steps[place]
        principal = await self._principal()
        if principal is None:
            return _REVOKED
        ask = Ask(
            request_id=run.request_id,
            client=inputs.client,
            action=step.action,
            params=params,
            run_id=run.id,
            step_id=step.id,
            tries_allowed=step.retries,
            timeout=step.timeout_seconds,
            still=self._still_held,
            untrusted_content=await self._steered(principal, inputs.steps[: place + 1]),
        )
        try:
            state = await self._gate.perform(principal, ask)
        except Unauthenticated:
            return _REVOKED
        except Problem as problem:
            if isinstance(problem, Unavailable) or (problem.status == _BUSY and now() < until):
                raise
            return end_of_refusal(problem)
        if state.status == "unknown":
            # Its outcome may only not have been written yet: what the table comes to say is what counts.
            return await self._end_of(step.id, state.attempt_id)
        return self._noted(step.id, state) or await self._end_of(step.id, state.attempt_id)

    def _still_held(self, tx: Tx) -> bool:
        return self._runs.holds(tx, self._claim.run.id, self._claim.fence)

    async def _steered(self, principal: Principal, steps: Sequence[RunStep]) -> bool:
        """Say whether content from outside may have had a say in the last of ``steps``.

        An action that the principal cannot see any more counts as one whose results are untrusted.
        """
        if not any(find_references(step.params) for step in steps):
            return False
        trusted = {spec.name for spec in await self._gate.visible(principal) if not spec.untrusted_result}
        return steered(steps, trusted)[-1]

    async def _principal(self) -> Principal | None:
        """Return who started the run, if that credential is still alive and of this workspace."""
        principal = await self._credentials.reload(self._claim.run.principal_id)
        if principal is None or principal.workspace_id != self._claim.run.workspace_id:
            return None
        return principal

    async def _end_of_existing(self, step_id: str) -> StepEnd | None:
        """Return the end of the attempt that this step has made, None when it has made none."""
        attempt_id = await self._runs.attempt_of(self._database.reader, self._claim.run.id, step_id)
        return None if attempt_id is None else await self._end_of(step_id, attempt_id)

    async def _end_of(self, step_id: str, attempt_id: str) -> StepEnd:
        """Wait for the end of an attempt that somebody else may be making; the gate's sweep bounds the wait.

        :class:`SetAside` for one that has not begun and does not begin soon.
        """
        seconds = FIRST_PAUSE_SECONDS
        patience = time.monotonic() + LONGEST_IN_PLACE_SECONDS
        while True:
            state = await self._gate.attempts.state(self._claim.run.workspace_id, attempt_id)
            if (end := self._noted(step_id, state)) is not None:
                return end
            self._hold.ensure()
            _set_aside_if_held(state, patience)
            looked = time.monotonic()
            await self._gate.attempts.settled(attempt_id, seconds)  # at once, where this process makes it
            state = await self._gate.attempts.state(self._claim.run.workspace_id, attempt_id)
            if (end := self._noted(step_id, state)) is not None:
                return end
            await self._hold.pause(max(0.0, looked + seconds - time.monotonic()))
            seconds = min(seconds * 2, LONGEST_LOOK_SECONDS)

    def _noted(self, step_id: str, state: AttemptState) -> StepEnd | None:
        if state.status == "succeeded":
            self._attempts[step_id] = state.attempt_id
            self._results[step_id] = state.result
        return end_of_attempt(state)

    async def _results_for(self, step: RunStep) -> dict[str, Any]:
        """Return the results that a step refers to; one that was erased is left out."""
        found: dict[str, Any] = {}
        for step_id in dict.fromkeys(reference.step_id for reference in find_references(step.params)):
            if step_id not in self._results and (attempt_id := self._attempts.get(step_id)) is not None:
                state = await self._gate.attempts.state(self._claim.run.workspace_id, attempt_id)
                self._results[step_id] = state.result
            if self._results.get(step_id) is not None:
                found[step_id] = self._results[step_id]
        return found

    async def _insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call until the database and the limits allow it, with growing pauses, as long as the lease is held."""
        seconds = FIRST_PAUSE_SECONDS
        patience = time.monotonic() + LONGEST_IN_PLACE_SECONDS
        while True:
            try:
                return await attempt()
            except (StoreUnavailable, Unavailable) as error:
                log.warning("run %s waits: %s", self._claim.run.id, type(error).__name__)
            except Problem as problem:
                if problem.status != _BUSY:
                    raise
                if time.monotonic() >= patience:
                    raise SetAside(_soon()) from None
            await self._hold.pause(seconds)
            seconds = min(seconds * 2, LONGEST_PAUSE_SECONDS)


def _set_aside_if_held(state: AttemptState, patience: float) -> None:
    """Leave an attempt that waits for its time to the gate, unless that comes before ``patience`` ends."""
    if state.status != "running" or state.held_until is None:
        return
    soon = _soon()
    if state.held_until > soon or time.monotonic() >= patience:
        raise SetAside(max(state.held_until, soon))


def _soon() -> int:
    return now() + round(LONGEST_IN_PLACE_SECONDS * MICROSECONDS)
