"""Last stage, record: intent before the effect, outcome after it, each durable with its audit row."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic_core import from_json, to_json

from relay.catalog import ActionSpec
from relay.core.action import Decision, Failure, Outcome, Step
from relay.core.clock import MICROSECONDS, now
from relay.core.ids import new_id
from relay.core.permit import boot_clock
from relay.core.principal import Principal
from relay.core.problem import NotFound
from relay.gate.ask import Ask, AttemptState
from relay.gate.claim import Claim, Idempotency
from relay.gate.rows import FIRST_FENCE, attempt_event, attempt_row, ended_state, stored_state
from relay.store.attempts import AttemptRepository
from relay.store.database import Database
from relay.store.idempotency import Remembered
from relay.store.vault import Sealed, Vault
from relay.store.writer import StoreUnavailable, Tx

LEASE_MARGIN_SECONDS: Final = 30
_CLOCK_SLACK_SECONDS: Final = 5
_RETRY_SECONDS: Final = 1.0

log = logging.getLogger("relay.gate")


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt whose intent is durable. ``deadline`` is on the boot clock, safely before the lease ends."""

    attempt_id: str
    created_at: int
    deadline: float


class Attempts:
    """Writes and reads attempts. Every method is scoped to the principal's workspace.

    ``on_full`` is called when an action has as many attempts under way as it may have, and refuses by raising.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        *,
        retention: int,
        idempotency_ttl: int,
        on_full: Callable[[ActionSpec], None],
    ) -> None:
        self._database = database
        self._vault = vault
        self._retention = retention
        self._idempotency_ttl = idempotency_ttl
        self._on_full = on_full
        self._running: dict[str, asyncio.Event] = {}
        self._late: set[asyncio.Task[None]] = set()

    async def begin(
        self,
        principal: Principal,
        ask: Ask,
        spec: ActionSpec,
        step: Step,
        decision: Decision,
        idempotency: Idempotency | None,
    ) -> Begun | Remembered:
        """Make the intent durable, consuming preview and idempotency key in the same transaction.

        Returns what is remembered instead when the idempotency key, or the run's step, has led to an attempt before.
        410 when the preview cannot be used (any more); 429 when the action has no place left; 503 (StoreUnavailable)
        when the intent cannot be written: then nothing may run.
        """
        started = boot_clock()
        at = now()
        lease = int(spec.timeout) + LEASE_MARGIN_SECONDS
        attempt_id = new_id("att")
        row = attempt_row(principal, ask, spec, step, decision, attempt_id, at)
        row.update(status="running", lease_until=at + lease * MICROSECONDS)
        params = self._seal(principal.workspace_id, "params", attempt_id, to_json(step.params), at)
        intent = attempt_event(principal, ask, "gate:action:intent", attempt_id, step, decision=decision)
        claim = Claim(principal, ask, idempotency, attempt_id, at, at + self._idempotency_ttl)

        def unit(tx: Tx) -> Remembered | None:
            if (found := claim.earlier(tx)) is not None:
                return found
            if spec.concurrency is not None and not claim.attempts.has_place(tx, spec.name, spec.concurrency):
                self._on_full(spec)
            claim.take(tx)
            claim.attempts.insert(tx, **row)
            self._vault.put(tx, params)
            tx.record(intent)
            return None

        self._running[attempt_id] = asyncio.Event()
        try:
            remembered = await self._database.writer.run(unit)
        except BaseException:
            self._settled(attempt_id)
            raise
        if remembered is not None:
            self._settled(attempt_id)
            return remembered
        return Begun(attempt_id, at, started + lease - _CLOCK_SLACK_SECONDS)

    async def record(
        self,
        principal: Principal,
        ask: Ask,
        spec: ActionSpec,
        step: Step,
        decision: Decision,
        idempotency: Idempotency | None,
        attempt_id: str,
        outcome: Outcome,
    ) -> AttemptState | Remembered:
        """Make a local action's attempt durable as a whole: it left nothing outside that an intent must precede.

        Consumes and refuses as :meth:`begin` does; what the action returned is then nobody's.
        """
        at = now()
        failure = outcome.failure
        row = attempt_row(principal, ask, spec, step, decision, attempt_id, at)
        row.update(status=outcome.status, finished_at=at, duration_ms=outcome.duration_ms)
        if failure is not None:
            row.update(error_code=failure.code, error_detail=failure.detail, error_status=failure.status)
        sealed = [self._seal(principal.workspace_id, "params", attempt_id, to_json(step.params), at)]
        if outcome.result is not None:
            sealed.append(self._seal(principal.workspace_id, "result", attempt_id, to_json(outcome.result), at))
        event = attempt_event(
            principal, ask, "gate:action:outcome", attempt_id, step, decision=decision, outcome=outcome
        )
        claim = Claim(principal, ask, idempotency, attempt_id, at, at + self._idempotency_ttl)

        def unit(tx: Tx) -> Remembered | None:
            if (found := claim.earlier(tx)) is not None:
                return found
            claim.take(tx)
            claim.attempts.insert(tx, **row)
            for envelope in sealed:
                self._vault.put(tx, envelope)
            tx.record(event)
            return None

        remembered = await self._database.writer.run(unit)
        return remembered or ended_state(principal, spec, step, attempt_id, outcome, at, at)

    async def finish(
        self, principal: Principal, ask: Ask, spec: ActionSpec, step: Step, begun: Begun, outcome: Outcome
    ) -> AttemptState:
        """Make the outcome durable and return the attempt's state.

        When it cannot be written, or another process has declared the attempt unknown, the state is ``unknown``: the
        effect may have happened. It is then written as soon as the database takes it, or kept as an event.
        """
        at = now()
        unit = self._finish_unit(principal, ask, step, begun.attempt_id, outcome, at)
        try:
            moved = await self._database.writer.run(unit, outcome=True)
        except StoreUnavailable:
            self._write_later(unit, begun)
            moved = False
        finally:
            self._settled(begun.attempt_id)
        if not moved:
            outcome = Outcome("unknown", None, _UNWRITTEN, outcome.duration_ms)
        return ended_state(principal, spec, step, begun.attempt_id, outcome, begun.created_at, at)

    def _finish_unit(
        self, principal: Principal, ask: Ask, step: Step, attempt_id: str, outcome: Outcome, at: int
    ) -> Callable[[Tx], bool]:
        repository = AttemptRepository(principal.workspace_id)
        sealed = None
        if outcome.result is not None:
            sealed = self._seal(principal.workspace_id, "result", attempt_id, to_json(outcome.result), at)
        failure = outcome.failure
        error = (failure.code, failure.detail, failure.status) if failure is not None else None
        draft = attempt_event(principal, ask, "gate:action:outcome", attempt_id, step, outcome=outcome)
        late = attempt_event(principal, ask, "gate:action:late_outcome", attempt_id, step, outcome=outcome)

        def unit(tx: Tx) -> bool:
            moved = repository.finish(
                tx,
                attempt_id,
                fence=FIRST_FENCE,
                status=outcome.status,
                at=at,
                duration_ms=outcome.duration_ms,
                error=error,
            )
            if moved and sealed is not None:
                self._vault.put(tx, sealed)
            tx.record(draft if moved else late)
            return moved

        return unit

    def _write_later(self, unit: Callable[[Tx], bool], begun: Begun) -> None:
        """Keep trying while the lease lasts; after that the sweep has the last word and this becomes an event."""

        async def keep_trying() -> None:
            while boot_clock() < begun.deadline + LEASE_MARGIN_SECONDS:
                await asyncio.sleep(_RETRY_SECONDS)
                try:
                    await self._database.writer.run(unit, outcome=True)
                    return
                except StoreUnavailable:
                    continue
            log.error("the outcome of %s could not be written", begun.attempt_id)

        task = asyncio.create_task(keep_trying(), name=f"late-outcome-{begun.attempt_id}")
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def stop(self) -> None:
        """Give up on outcomes that still cannot be written; the sweep declares them unknown."""
        for task in list(self._late):
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    async def deny(self, principal: Principal, ask: Ask, step: Step, decision: Decision) -> None:
        """Make a denial durable."""
        draft = attempt_event(principal, ask, "gate:action:denied", ask.preview_id or "", step, decision=decision)
        await self._database.writer.run(lambda tx: tx.record(draft))

    async def state(self, workspace_id: str, attempt_id: str) -> AttemptState:
        """Return an attempt of this workspace as it stands; 404 for any other."""
        row = await AttemptRepository(workspace_id).get(self._database.reader, attempt_id)
        if row is None:
            raise NotFound("There is no such attempt in this workspace.")
        result = None
        if row.status == "succeeded":
            plaintext = await self._vault.open(workspace=workspace_id, purpose="result", record_id=attempt_id)
            result = None if plaintext is None else from_json(plaintext)
        return stored_state(row, result)

    async def params(self, workspace_id: str, attempt_id: str) -> bytes | None:
        """Return an attempt's parameters as JSON, or None after their retention."""
        return await self._vault.open(workspace=workspace_id, purpose="params", record_id=attempt_id)

    async def settled(self, attempt_id: str, seconds: float) -> None:
        """Return when an attempt that runs in this process has ended, or after ``seconds``."""
        event = self._running.get(attempt_id)
        if event is None:
            await asyncio.sleep(min(seconds, 0.1))
            return
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    def _settled(self, attempt_id: str) -> None:
        event = self._running.pop(attempt_id, None)
        if event is not None:
            event.set()

    def _seal(self, workspace: str, purpose: str, attempt_id: str, plaintext: bytes, at: int) -> Sealed:
        return self._vault.seal(
            plaintext, workspace=workspace, purpose=purpose, record_id=attempt_id, expires_at=at + self._retention
        )


_UNWRITTEN: Final = Failure(
    "outcome_unwritten", "The action ran, but what became of it could not be written down in time.", 504
)
