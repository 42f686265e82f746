"""Intent, effect, outcome: the three in their order, for attempts that begin at once and for those that waited."""

import asyncio
import random
import time
from typing import Final

from relay.catalog import Catalog
from relay.core.action import Failure, Outcome
from relay.core.clock import MICROSECONDS, now
from relay.core.ids import new_id
from relay.core.permit import boot_clock
from relay.core.problem import Problem, QuotaExceeded
from relay.gate.ask import AskerReplaced, AttemptState, Intent
from relay.gate.asked import Asked
from relay.gate.attempts import Attempts, Begun
from relay.gate.execute import execute
from relay.gate.limit import ActionLimits
from relay.gate.preview import Previews
from relay.store.attempts import AttemptRow
from relay.store.idempotency import Remembered
from relay.store.writer import StoreUnavailable
from relay.telemetry import context
from relay.telemetry.metrics import Metrics
from relay.telemetry.spans import span

FIRST_PAUSE_SECONDS: Final = 2.0
LONGEST_PAUSE_SECONDS: Final = 300.0
_JITTER: Final = 0.2
_INTERRUPTED: Final = Failure("interrupted", "Relay was stopped while the action ran.", 504)


class Effects:
    """Carries an intent out within the action's limits. The only caller of ``execute``."""

    def __init__(
        self, catalog: Catalog, attempts: Attempts, limits: ActionLimits, previews: Previews, metrics: Metrics
    ) -> None:
        self._catalog = catalog
        self._attempts = attempts
        self._limits = limits
        self._previews = previews
        self._seconds = metrics.histogram("relay_attempt_duration_seconds")

    async def start(self, intent: Intent) -> AttemptState | Remembered:
        """Begin a new attempt and bring it to its end, or return what the same request has led to before."""
        run = self._run_local if intent.spec.local else self._run
        if not intent.spec.limits:
            return await run(intent)
        try:
            taken = await self._limits.take(intent.principal, intent.spec)
        except QuotaExceeded:
            # What has been done already may be asked for however often.
            found = None
            if intent.idempotency is not None:
                found = await self._previews.remembered(
                    intent.principal.workspace_id, intent.idempotency.owners, intent.idempotency.key_hash
                )
            if found is None:
                raise
            return found
        try:
            done = await run(intent)
        except (Problem, StoreUnavailable, AskerReplaced):
            await taken.give_back()
            raise
        if isinstance(done, Remembered):
            await taken.give_back()
        return done

    async def resume(self, intent: Intent, row: AttemptRow) -> AttemptState | None:
        """Begin an attempt that waited and bring it to its end; None when it began elsewhere.

        Raises what refuses it before it begins, as :meth:`start` does.
        """
        taken = await self._limits.take(intent.principal, intent.spec)
        try:
            with span("intent", relay__attempt_id=row.id):
                begun = await self._attempts.begin_waiting(intent, row)
        except (Problem, StoreUnavailable):
            await taken.give_back()
            raise
        if begun is None:
            await taken.give_back()
            return None
        return await self._carry_out(intent, begun)

    async def _run(self, intent: Intent) -> AttemptState | Remembered:
        with span("intent"):
            begun = await self._attempts.begin(intent)
        if isinstance(begun, Remembered):
            return begun
        return await self._carry_out(intent, begun)

    async def _run_local(self, intent: Intent) -> AttemptState | Remembered:
        """A local action leaves nothing outside, so its attempt is written once, before anybody learns the result."""
        attempt_id = new_id("att")
        with context.bound(attempt_id=attempt_id, action=intent.spec.name):
            outcome = await execute(intent, None, attempt_id=attempt_id, deadline=boot_clock() + intent.timeout)
            self._seconds.observe(outcome.duration_ms / 1000, intent.spec.name)
            with span("outcome", relay__status=outcome.status):
                return await self._attempts.record(intent, attempt_id, outcome)

    async def _carry_out(self, intent: Intent, begun: Begun) -> AttemptState:
        with context.bound(attempt_id=begun.attempt_id, action=intent.spec.name):
            return await self._carried_out(intent, begun)

    async def _carried_out(self, intent: Intent, begun: Begun) -> AttemptState:
        began = time.perf_counter()
        try:
            outcome = await execute(
                intent,
                self._catalog.client(intent.spec.name),
                attempt_id=begun.attempt_id,
                approval_id=begun.approval_id,
                deadline=begun.deadline,
            )
        except asyncio.CancelledError:
            took = round((time.perf_counter() - began) * 1000)
            outcome = Outcome("unknown", None, _INTERRUPTED, took)
            await asyncio.shield(self._attempts.finish(intent, begun, outcome))
            raise
        finally:
            self._seconds.observe(time.perf_counter() - began, intent.spec.name)
        failure = outcome.failure
        if failure is not None and failure.retryable and begun.tries <= intent.ask.tries_allowed:
            not_before = now() + _pause(begun.tries)
            asked = Asked.of(intent).sealed_form()
            with span("outcome", relay__status=outcome.status):
                return await self._attempts.try_again(intent, begun, outcome, not_before, asked)
        with span("outcome", relay__status=outcome.status):
            return await self._attempts.finish(intent, begun, outcome)


def _pause(tries: int) -> int:
    """Return microseconds to wait before the next try: doubling, with jitter, so that many do not come back at once."""
    seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), LONGEST_PAUSE_SECONDS)
    return round(seconds * random.uniform(1 - _JITTER, 1 + _JITTER) * MICROSECONDS)  # noqa: S311 - spreads load, guards nothing
