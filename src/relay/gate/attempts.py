"""Last stage, record: intent before the effect, outcome after it, each durable with its audit row."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from pydantic_core import from_json, to_json

from relay.catalog import ActionSpec
from relay.core.action import Failure, Outcome
from relay.core.clock import MICROSECONDS, now
from relay.core.ids import new_id
from relay.core.permit import boot_clock
from relay.core.problem import NotFound
from relay.gate.ask import AttemptState, Intent
from relay.gate.checks import Checks
from relay.gate.claim import Claim
from relay.gate.rows import FIRST_FENCE, attempt_event, attempt_row, ended_state, stored_state, waiting_state
from relay.store.attempts import AttemptRepository, AttemptRow
from relay.store.database import Database
from relay.store.idempotency import Remembered
from relay.store.vault import Sealed, Vault
from relay.store.writer import StoreUnavailable, Tx

T = TypeVar("T")

LEASE_MARGIN_SECONDS: Final = 30
UNKNOWN_STATUS: Final = 504
_CLOCK_SLACK_SECONDS: Final = 5
_RETRY_SECONDS: Final = 1.0

log = logging.getLogger("relay.gate")


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt whose intent is durable. ``deadline`` is on the boot clock, safely before the lease ends.

    ``fence`` is the number under which this process may move it; ``reserves`` says that a budget has been charged;
    ``in_doubt`` that an earlier try may have taken effect, so that this one's failure settles nothing.
    """

    attempt_id: str
    created_at: int
    deadline: float
    fence: int = FIRST_FENCE
    tries: int = 1
    approval_id: str | None = None
    reserves: bool = False
    in_doubt: bool = False


class Attempts:
    """Writes and reads attempts. Every method is scoped to the principal's workspace.

    ``on_full`` is called when an action has as many attempts under way as it may have, and refuses by raising.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        checks: Checks,
        *,
        retention: int,
        idempotency_ttl: int,
        on_full: Callable[[ActionSpec], None],
    ) -> None:
        self._database = database
        self._vault = vault
        self._checks = checks
        self._retention = retention
        self._idempotency_ttl = idempotency_ttl
        self._on_full = on_full
        self._running: dict[str, asyncio.Event] = {}
        self._late: set[asyncio.Task[None]] = set()

    async def begin(self, intent: Intent) -> Begun | Remembered:
        """Make the intent durable, consuming preview, idempotency key and budgets in the same transaction.

        Returns what is remembered instead when the idempotency key, or the run's step, has led to an attempt before.
        403 when a kill switch is on; 410 when the preview cannot be used (any more); 429 when the action has no place
        or a budget nothing left; 503 (StoreUnavailable) when the intent cannot be written: then nothing may run.
        """
        started, at = boot_clock(), now()
        lease = _lease_seconds(intent)
        attempt_id = new_id("att")
        row = attempt_row(intent, attempt_id, at)
        row.update(status="running", lease_until=at + lease * MICROSECONDS)
        params = self.seal_params(intent, attempt_id, at)
        draft = attempt_event(intent, "gate:action:intent", attempt_id, decided=True)
        claim = self.claim(intent, attempt_id, at)
        check = await self._checks.prepare(intent, attempt_id, at)

        def unit(tx: Tx) -> Remembered | None:
            check.running(tx)
            if (found := claim.earlier(tx)) is not None:
                return found
            check.affordable(tx)
            self._require_place(tx, claim.attempts, intent.spec)
            claim.take(tx)
            claim.attempts.insert(tx, **row)
            self._vault.put(tx, params)
            check.take(tx)
            tx.record(draft)
            return None

        remembered = await self._begun(attempt_id, unit, went=lambda found: found is None)
        if remembered is not None:
            return remembered
        deadline = started + lease - _CLOCK_SLACK_SECONDS
        return Begun(attempt_id, at, deadline, reserves=check.reserves)

    async def begin_waiting(self, intent: Intent, row: AttemptRow) -> Begun | None:
        """Begin an attempt that has waited, as :meth:`begin` does; None when another process was first."""
        started, at = boot_clock(), now()
        lease = _lease_seconds(intent)
        repository = AttemptRepository(row.workspace_id)
        draft = attempt_event(intent, "gate:action:intent", row.id, decided=True)
        check = await self._checks.prepare(intent, row.id, at)

        def unit(tx: Tx) -> bool:
            check.running(tx)
            found = repository.row(tx, row.id)
            if found is None or found.status != "ready" or found.fence != row.fence:
                return False
            check.affordable(tx)
            self._require_place(tx, repository, intent.spec)
            moved = repository.begin(
                tx,
                row.id,
                fence=row.fence,
                at=at,
                lease_until=at + lease * MICROSECONDS,
                policy_id=intent.decision.policy_id,
                policy_version=intent.decision.policy_version,
            )
            if moved:
                check.take(tx)
                tx.record(draft)
            return moved

        if not await self._begun(row.id, unit, went=bool):
            return None
        return Begun(
            row.id,
            row.created_at,
            started + lease - _CLOCK_SLACK_SECONDS,
            fence=row.fence + 1,
            tries=row.tries + 1,
            approval_id=row.approval_id,
            reserves=check.reserves,
            in_doubt=row.error_status == UNKNOWN_STATUS,
        )

    def _require_place(self, tx: Tx, attempts: AttemptRepository, spec: ActionSpec) -> None:
        if spec.concurrency is not None and not attempts.has_place(tx, spec.name, spec.concurrency):
            self._on_full(spec)

    async def _begun(self, attempt_id: str, unit: Callable[[Tx], T], *, went: Callable[[T], bool]) -> T:
        """Run the unit that begins an attempt; twins wait for it from before it can be seen until it has ended."""
        self._running.setdefault(attempt_id, asyncio.Event())
        try:
            done = await self._database.writer.run(unit)
        except BaseException:
            self._settled(attempt_id)
            raise
        if not went(done):
            self._settled(attempt_id)
        return done

    async def record(self, intent: Intent, attempt_id: str, outcome: Outcome) -> AttemptState | Remembered:
        """Make a local action's attempt durable as a whole: it left nothing outside that an intent must precede.

        Consumes and refuses as :meth:`begin` does; what the action returned is then nobody's.
        """
        at, failure = now(), outcome.failure
        row = attempt_row(intent, attempt_id, at)
        row.update(status=outcome.status, finished_at=at, duration_ms=outcome.duration_ms)
        if failure is not None:
            row.update(error_code=failure.code, error_detail=failure.detail, error_status=failure.status)
        sealed = [self.seal_params(intent, attempt_id, at)]
        if outcome.result is not None:
            sealed.append(self._seal(intent, "result", attempt_id, to_json(outcome.result), at))
        draft = attempt_event(intent, "gate:action:outcome", attempt_id, decided=True, outcome=outcome)
        claim = self.claim(intent, attempt_id, at)
        check = await self._checks.prepare(intent, attempt_id, at)

        def unit(tx: Tx) -> Remembered | None:
            check.running(tx)
            if (found := claim.earlier(tx)) is not None:
                return found
            check.affordable(tx)
            claim.take(tx)
            claim.attempts.insert(tx, **row)
            for envelope in sealed:
                self._vault.put(tx, envelope)
            check.take(tx)
            tx.record(draft)
            return None

        remembered = await self._database.writer.run(unit)
        return remembered or ended_state(intent, attempt_id, outcome, created_at=at, at=at)

    async def finish(self, intent: Intent, begun: Begun, outcome: Outcome) -> AttemptState:
        """Make the outcome durable and return the attempt's state.

        When it cannot be written, or another process has declared the attempt unknown, the state is ``unknown``: the
        effect may have happened. It is then written as soon as the database takes it, or kept as an event.
        """
        at, outcome = now(), _settling(begun, outcome)
        unit = self._finish_unit(intent, begun, outcome, at)
        if not await self._ended(unit, begun):
            outcome = Outcome("unknown", None, _UNWRITTEN, outcome.duration_ms)
        return ended_state(
            intent,
            begun.attempt_id,
            outcome,
            created_at=begun.created_at,
            at=at,
            approval_id=begun.approval_id,
            tries=begun.tries,
        )

    async def try_again(
        self, intent: Intent, begun: Begun, outcome: Outcome, not_before: int, asked: bytes
    ) -> AttemptState:
        """Have an attempt that came to nothing begin again later; ``asked`` is what whoever does that must know.

        Falls back to :meth:`finish` when the attempt is not this process's to move any more.
        """
        at, outcome = now(), _settling(begun, outcome)
        repository = AttemptRepository(intent.principal.workspace_id)
        sealed = self._seal(intent, "asked", begun.attempt_id, asked, at)
        failure = outcome.failure
        error = (failure.code, failure.detail, failure.status) if failure is not None else None
        draft = attempt_event(intent, "gate:action:retried", begun.attempt_id, outcome=outcome)
        late = attempt_event(intent, "gate:action:late_outcome", begun.attempt_id, outcome=outcome)

        def unit(tx: Tx) -> bool:
            moved = repository.make_ready(
                tx, begun.attempt_id, was="running", fence=begun.fence, not_before=not_before, error=error
            )
            if moved:
                self._vault.put_if_absent(tx, sealed)
                if begun.reserves and outcome.status == "failed":
                    self._checks.give_back(tx, intent.principal.workspace_id, begun.attempt_id)
            tx.record(draft if moved else late)
            return moved

        if not await self._ended(unit, begun):
            return ended_state(
                intent,
                begun.attempt_id,
                Outcome("unknown", None, _UNWRITTEN, outcome.duration_ms),
                created_at=begun.created_at,
                at=at,
                approval_id=begun.approval_id,
                tries=begun.tries,
            )
        return waiting_state(
            intent,
            begun.attempt_id,
            "running",
            created_at=begun.created_at,
            approval_id=begun.approval_id,
            held_until=not_before,
            tries=begun.tries,
        )

    async def _ended(self, unit: Callable[[Tx], bool], begun: Begun) -> bool:
        try:
            return await self._database.writer.run(unit, outcome=True)
        except StoreUnavailable:
            self._write_later(unit, begun)
            return False
        finally:
            self._settled(begun.attempt_id)

    def _finish_unit(self, intent: Intent, begun: Begun, outcome: Outcome, at: int) -> Callable[[Tx], bool]:
        workspace, attempt_id = intent.principal.workspace_id, begun.attempt_id
        repository = AttemptRepository(workspace)
        sealed = None
        if outcome.result is not None:
            sealed = self._seal(intent, "result", attempt_id, to_json(outcome.result), at)
        failure = outcome.failure
        error = (failure.code, failure.detail, failure.status) if failure is not None else None
        notice = {"run_id": intent.ask.run_id} if intent.ask.run_id else None
        draft = attempt_event(intent, "gate:action:outcome", attempt_id, outcome=outcome, notice=notice)
        late = attempt_event(intent, "gate:action:late_outcome", attempt_id, outcome=outcome)

        def unit(tx: Tx) -> bool:
            moved = repository.finish(
                tx,
                attempt_id,
                fence=begun.fence,
                status=outcome.status,
                at=at,
                duration_ms=outcome.duration_ms,
                error=error,
            )
            if moved and sealed is not None:
                self._vault.put(tx, sealed)
            if moved and begun.reserves and outcome.status == "failed":
                self._checks.give_back(tx, workspace, attempt_id)
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

    async def deny(self, intent: Intent) -> None:
        """Make a denial durable."""
        draft = attempt_event(intent, "gate:action:denied", intent.ask.preview_id or "", decided=True)
        record = self._checks.record(intent, now())

        def unit(tx: Tx) -> None:
            if record is not None:
                record.put(tx)
            tx.record(draft)

        await self._database.writer.run(unit)

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

    def claim(self, intent: Intent, attempt_id: str, at: int) -> Claim:
        """Return what a new attempt uses up."""
        lifetime = max(self._idempotency_ttl, self._retention) if intent.ask.key_lasts else self._idempotency_ttl
        return Claim(intent, attempt_id, at, at + lifetime)

    def seal_params(self, intent: Intent, attempt_id: str, at: int) -> Sealed:
        """Return the envelope of a new attempt's parameters."""
        return self._seal(intent, "params", attempt_id, to_json(intent.step.params), at)

    def seal_asked(self, intent: Intent, attempt_id: str, asked: bytes, at: int) -> Sealed:
        """Return the envelope of what must be known to begin an attempt that waits."""
        return self._seal(intent, "asked", attempt_id, asked, at)

    def _seal(self, intent: Intent, purpose: str, attempt_id: str, plaintext: bytes, at: int) -> Sealed:
        return self._vault.seal(
            plaintext,
            workspace=intent.principal.workspace_id,
            purpose=purpose,
            record_id=attempt_id,
            expires_at=at + self._retention,
        )


def _settling(begun: Begun, outcome: Outcome) -> Outcome:
    """Return what an outcome makes of the attempt: after a try that nobody knows the end of, no failure is sure."""
    failure = outcome.failure
    if not begun.in_doubt or outcome.status != "failed" or failure is None:
        return outcome
    return Outcome("unknown", None, replace(failure, status=UNKNOWN_STATUS), outcome.duration_ms)


def _lease_seconds(intent: Intent) -> int:
    return int(intent.timeout) + LEASE_MARGIN_SECONDS


_UNWRITTEN: Final = Failure(
    "outcome_unwritten", "The action ran, but what became of it could not be written down in time.", 504
)
