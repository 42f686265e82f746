"""The only way to run an action: validate · decide · approve · execute · record."""

import asyncio
import logging
import time
from typing import Any, Final

from relay.catalog import ActionSpec, Catalog
from relay.core.action import Decision, Failure, Outcome, Step
from relay.core.canonical import canonical_json
from relay.core.circumstances import Circumstances
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.permit import boot_clock
from relay.core.principal import Principal
from relay.core.problem import Denied, Gone, IdempotencyMismatch, Problem, QuotaExceeded, Unauthenticated
from relay.crypto.digest import sha256_hex
from relay.gate.ask import Ask, AttemptState, Considered, PreviewState
from relay.gate.attempts import Attempts
from relay.gate.authenticate import Credentials
from relay.gate.claim import Idempotency
from relay.gate.decide import decide
from relay.gate.execute import execute
from relay.gate.limit import ActionLimits
from relay.gate.preview import Previews
from relay.gate.validate import known_action, make_step, require_scope, valid_params
from relay.policy.interface import Policy
from relay.store.idempotency import Remembered
from relay.store.writer import StoreUnavailable

TWIN_SECONDS: Final = 10.0
_INTERRUPTED: Final = Failure("interrupted", "Relay was stopped while the action ran.", 504)

log = logging.getLogger("relay.gate")


class Performer:
    """Previews and performs. HTTP, runs and every later door call this and nothing else."""

    def __init__(
        self,
        catalog: Catalog,
        policy: Policy,
        credentials: Credentials,
        attempts: Attempts,
        previews: Previews,
        limits: ActionLimits,
    ) -> None:
        self._catalog = catalog
        self._policy = policy
        self._credentials = credentials
        self._previews = previews
        self._limits = limits
        self.attempts = attempts

    async def visible(self, principal: Principal) -> list[ActionSpec]:
        """Return the actions that this principal could run with some parameters; no other is ever named to it."""
        return [spec for spec in self._catalog if await self._policy.could_run(principal, spec)]

    async def consider(self, principal: Principal, action: str, params: Any, prefix: str = "") -> Considered:
        """Validate and decide without writing anything; a refusal of the rendering (egress) is a denial.

        422 with pointers below ``prefix`` when the step is not valid.
        """
        spec = known_action(self._catalog, action, prefix + "/action")
        step = make_step(principal, spec, valid_params(spec, params, prefix + "/params"))
        return await self._considered(principal, spec, step)

    async def _considered(self, principal: Principal, spec: ActionSpec, step: Step) -> Considered:
        decision = await decide(self._policy, principal, spec, step, Circumstances(now()))
        rendering = await asyncio.to_thread(spec.render, step, self._catalog.client(spec.name))
        if rendering.refusal is not None and decision.effect != "deny":
            decision = Decision("deny", "builtin:egress", 1, rendering.refusal)
        return Considered(spec, step, decision, rendering)

    async def preview(self, principal: Principal, action: str, params: Any, *, request_id: str) -> PreviewState:
        """Store and return what an action would really do, with its decision."""
        considered = await self.consider(principal, action, params)
        return await self._previews.make(principal, considered, request_id=request_id)

    async def perform(self, principal: Principal, ask: Ask) -> AttemptState:
        """Run one action along the whole path and return its attempt.

        Raises a problem when it is refused before an attempt exists: 401 (the credential has died), 403, 404 or 410
        (the preview), 409 (the idempotency key), 422, 429 (the action's limits), 503. An attempt that fails, or whose
        outcome cannot be known, is returned as a state, not raised. Called again for the same idempotency key or the
        same step of a run it returns the state of the attempt that exists and runs nothing.
        """
        await self._require_alive(principal)
        remembered = await self._remembered(principal, ask)
        if remembered is not None:
            return await self._twin(principal, ask, remembered, None)
        try:
            spec, step = await self._step(principal, ask)
        except Gone:
            # A twin may have used the preview up since the key was looked up.
            remembered = await self._remembered(principal, ask)
            if remembered is None:
                raise
            return await self._twin(principal, ask, remembered, None)
        idempotency = _idempotency(ask, spec, step)
        decision = await decide(self._policy, principal, spec, step, Circumstances(now()))
        if decision.effect != "allow":
            await self.attempts.deny(principal, ask, step, decision)
            raise Denied(decision.reason, policy_id=decision.policy_id, policy_version=decision.policy_version)
        done = await self._limited(principal, ask, spec, step, decision, idempotency)
        if isinstance(done, Remembered):
            return await self._twin(principal, ask, done, idempotency)
        if done.failure is not None:
            # The code alone: what the other side said, and who it is, stays in the attempt.
            about = (done.attempt_id, done.action, done.status, done.failure.code)
            log.warning("attempt %s of %s is %s: %s", *about, extra={"request_id": ask.request_id})
        return done

    async def _limited(
        self,
        principal: Principal,
        ask: Ask,
        spec: ActionSpec,
        step: Step,
        decision: Decision,
        idempotency: Idempotency | None,
    ) -> AttemptState | Remembered:
        """Run within the action's limits, which an attempt that does not come about leaves as they were."""
        run = self._run_local if spec.local else self._run
        if not spec.limits:
            return await run(principal, ask, spec, step, decision, idempotency)
        try:
            taken = await self._limits.take(principal, spec)
        except QuotaExceeded:
            # What has been done already may be asked for however often.
            if (
                idempotency is not None
                and (found := await self._previews.remembered(principal, idempotency.key_hash)) is not None
            ):
                return found
            raise
        try:
            done = await run(principal, ask, spec, step, decision, idempotency)
        except (Problem, StoreUnavailable):
            await taken.give_back()
            raise
        if isinstance(done, Remembered):
            await taken.give_back()
        return done

    async def _run(
        self,
        principal: Principal,
        ask: Ask,
        spec: ActionSpec,
        step: Step,
        decision: Decision,
        idempotency: Idempotency | None,
    ) -> AttemptState | Remembered:
        """Intent, effect, outcome."""
        begun = await self.attempts.begin(principal, ask, spec, step, decision, idempotency)
        if isinstance(begun, Remembered):
            return begun
        began = time.perf_counter()
        try:
            outcome = await execute(
                spec,
                self._catalog.client(spec.name),
                attempt_id=begun.attempt_id,
                principal=principal,
                step=step,
                decision=decision,
                deadline=begun.deadline,
            )
        except asyncio.CancelledError:
            took = round((time.perf_counter() - began) * 1000)
            outcome = Outcome("unknown", None, _INTERRUPTED, took)
            await asyncio.shield(self.attempts.finish(principal, ask, spec, step, begun, outcome))
            raise
        return await self.attempts.finish(principal, ask, spec, step, begun, outcome)

    async def _run_local(
        self,
        principal: Principal,
        ask: Ask,
        spec: ActionSpec,
        step: Step,
        decision: Decision,
        idempotency: Idempotency | None,
    ) -> AttemptState | Remembered:
        """A local action leaves nothing outside, so its attempt is written once, before anybody learns the result."""
        attempt_id = new_id("att")
        outcome = await execute(
            spec,
            None,
            attempt_id=attempt_id,
            principal=principal,
            step=step,
            decision=decision,
            deadline=boot_clock() + spec.timeout,
        )
        return await self.attempts.record(principal, ask, spec, step, decision, idempotency, attempt_id, outcome)

    async def _require_alive(self, principal: Principal) -> None:
        """A run outlives the request that started it; the credential may have died since."""
        if principal.auth_method == "api_key" and await self._credentials.reload(principal.credential_id) is None:
            raise Unauthenticated("The API key behind this is not valid any more.", reason="dead_credential")

    async def _remembered(self, principal: Principal, ask: Ask) -> Remembered | None:
        """A used preview with its own idempotency key answers what it led to, so the key is looked up first."""
        if ask.preview_id is None or ask.idempotency_key is None:
            return None
        found = await self._previews.remembered(principal, sha256_hex(ask.idempotency_key.encode()))
        if found is not None and found.fingerprint != _preview_fingerprint(ask.preview_id):
            raise _mismatch()
        return found

    async def _step(self, principal: Principal, ask: Ask) -> tuple[ActionSpec, Step]:
        if ask.preview_id is not None:
            row, params = await self._previews.open(principal, ask.preview_id)
            spec = known_action(self._catalog, row.action)
            require_scope(principal, spec)
            return spec, self._previews.step(principal, spec, row, params)
        spec = known_action(self._catalog, ask.action or "")
        require_scope(principal, spec)
        return spec, make_step(principal, spec, valid_params(spec, ask.params))

    async def _twin(
        self, principal: Principal, ask: Ask, remembered: Remembered, idempotency: Idempotency | None
    ) -> AttemptState:
        """Answer for an attempt that exists already, waiting a while for one that still runs."""
        if idempotency is not None and remembered.fingerprint not in ("", idempotency.fingerprint):
            raise _mismatch()
        until = time.monotonic() + TWIN_SECONDS
        while True:
            state = await self.attempts.state(principal.workspace_id, remembered.subject_id)
            left = until - time.monotonic()
            if state.status != "running" or left <= 0:
                return state
            await self.attempts.settled(state.attempt_id, left)


def _idempotency(ask: Ask, spec: ActionSpec, step: Step) -> Idempotency | None:
    if ask.idempotency_key is None:
        return None
    if ask.preview_id is not None:
        fingerprint = _preview_fingerprint(ask.preview_id)
    else:
        # The key itself is stored as a hash only; with it in the form, short parameters cannot be guessed from a dump.
        form = {"key": ask.idempotency_key, "action": spec.name, "params": spec.digest_form(step.params)}
        fingerprint = sha256_hex(canonical_json(form))
    return Idempotency(sha256_hex(ask.idempotency_key.encode()), fingerprint)


def _preview_fingerprint(preview_id: str) -> str:
    return sha256_hex(canonical_json({"preview": preview_id}))


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch("This Idempotency-Key was used with another request; use a new one.")
