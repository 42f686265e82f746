"""The only way to run an action: validate · decide · approve · execute · record."""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any, Final

from relay.catalog import ActionSpec, Catalog
from relay.core.action import Decision, Step
from relay.core.canonical import canonical_json
from relay.core.circumstances import Circumstances
from relay.core.clock import now
from relay.core.origins import Origins
from relay.core.principal import Principal
from relay.core.problem import (
    BudgetExhausted,
    Denied,
    EgressDenied,
    Gone,
    IdempotencyMismatch,
    StateChanged,
    Unauthenticated,
)
from relay.crypto.digest import sha256_hex
from relay.gate.ask import Ask, AttemptState, Considered, Idempotency, Intent, PreviewState
from relay.gate.attempts import Attempts
from relay.gate.authenticate import Credentials
from relay.gate.checks import Checks
from relay.gate.decide import decide
from relay.gate.effect import Effects
from relay.gate.hold import Holds
from relay.gate.preview import Previews
from relay.gate.probe import CHANGED, UNREAD, Probes
from relay.gate.validate import known_action, make_step, require_scope, valid_params
from relay.identity.credentials import INVALID_KEY
from relay.policy.interface import Policy
from relay.policy.stops import problem_of
from relay.store.idempotency import Remembered
from relay.telemetry import context

TWIN_SECONDS: Final = 10.0

log = logging.getLogger("relay.gate")


class Performer:
    """Previews and performs. HTTP, runs and every later door call this and nothing else."""

    def __init__(
        self,
        catalog: Catalog,
        policy: Policy,
        credentials: Credentials,
        checks: Checks,
        attempts: Attempts,
        previews: Previews,
        holds: Holds,
        effects: Effects,
        probes: Probes,
    ) -> None:
        self._catalog = catalog
        self._policy = policy
        self._credentials = credentials
        self._checks = checks
        self._previews = previews
        self._effects = effects
        self._probes = probes
        self.attempts = attempts
        self.holds = holds

    async def visible(self, principal: Principal) -> list[ActionSpec]:
        """Return the actions that this principal could run with some parameters; no other is ever named to it."""
        found = [spec for spec in self._catalog if principal.actions is None or spec.name in principal.actions]
        return [spec for spec in found if await self._policy.could_run(principal, spec)]

    async def consider(
        self,
        principal: Principal,
        action: str,
        params: Any,
        prefix: str = "",
        *,
        circumstances: Circumstances | None = None,
        request_id: str = "",
    ) -> Considered:
        """Validate and decide without writing anything; a refusal of the rendering (egress) is a denial.

        422 with pointers below ``prefix`` when the step is not valid.
        """
        circumstances = circumstances or Circumstances(now())
        spec = await self._named(principal, action, prefix + "/action", request_id, circumstances.client)
        step = make_step(principal, spec, valid_params(spec, params, prefix + "/params"))
        decision = await self._decided(principal, spec, step, circumstances)
        rendering = await asyncio.to_thread(spec.render, step, self._catalog.client(spec.name))
        if rendering.refusal is not None and decision.effect != "deny":
            decision = _refused(decision, rendering.refusal)
        warnings = await self._checks.warnings(principal, spec, step.params) if decision.effect != "deny" else []
        return Considered(spec, step, decision, rendering, (*rendering.warnings, *warnings))

    async def _named(self, principal: Principal, name: str, pointer: str, request_id: str, client: str) -> ActionSpec:
        """Return the action that somebody asks for, 422 when there is none; whoever asks for honey is caught.

        They get 401 in the words for a key that is not valid, which theirs is not any more.
        """
        spec = known_action(self._catalog, name, pointer)
        if spec.honey:
            await self._credentials.honey_action_used(principal, spec.name, request_id=request_id, client=client)
            raise Unauthenticated(INVALID_KEY, reason="quarantined")
        return spec

    async def _decided(
        self, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
    ) -> Decision:
        stop = await self._checks.stopped(principal, spec)
        if stop is not None:
            return Decision("deny", "builtin:kill-switch", 1, problem_of(stop).detail)
        return await decide(self._policy, principal, spec, step, circumstances)

    async def preview(
        self,
        principal: Principal,
        action: str,
        params: Any,
        *,
        request_id: str,
        client: str,
        untrusted_content: bool = False,
        origins: Origins | None = None,
    ) -> PreviewState:
        """Store and return what an action would really do, with its decision.

        ``untrusted_content`` and ``origins`` as in :class:`~relay.gate.ask.Ask`.
        """
        circumstances = Circumstances(now(), client, untrusted_content=untrusted_content, origins=origins)
        considered = await self.consider(principal, action, params, circumstances=circumstances, request_id=request_id)
        seen = None
        probe = self._probes.of(considered.spec, considered.step.params)
        if probe is not None and considered.decision.effect != "deny":
            await self._require_alive(principal)
            ask = Ask(request_id, client, action, untrusted_content=untrusted_content, origins=origins)
            seen = await self._probes.read(self.perform, principal, probe, ask)
            if seen is None:
                considered = replace(considered, warnings=(*considered.warnings, UNREAD))
        return await self._previews.make(principal, considered, request_id=request_id, client=client, seen_version=seen)

    async def perform(self, principal: Principal, ask: Ask) -> AttemptState:
        """Take one action along the whole path and return its attempt.

        Raises a problem when it is refused before an attempt exists: 401 (the credential has died), 403, 404 or 410
        (the preview), 409 (the idempotency key), 422, 429 (limits and budgets), 503. An attempt that fails, whose
        outcome cannot be known, or that waits (for an approval, or held back) is returned as a state, not raised.
        Called again for the same idempotency key or the same step of a run it returns the state of the attempt that
        exists and runs nothing.
        """
        await self._require_alive(principal)
        remembered = await self._remembered(principal, ask)
        if remembered is not None:
            return await self._twin(principal.workspace_id, remembered, None)
        try:
            spec, step = await self._step(principal, ask)
        except Gone:
            # A twin may have used the preview up since the key was looked up.
            remembered = await self._remembered(principal, ask)
            if remembered is None:
                raise
            return await self._twin(principal.workspace_id, remembered, None)
        intent = await self._allowed(principal, ask, spec, step)
        if self._probes.of(spec, step.params) is not None:
            seen = await self._bound(intent)
            # The reading took as long as the other side pleased: what was looked at before it counts no more.
            await self._require_alive(principal)
            again = await self._allowed(principal, ask, spec, step, asked_at=intent.asked_at)
            intent = replace(again, seen_version=seen)
        try:
            done = await self._go(intent)
        except BudgetExhausted as problem:
            await self._checks.refused(intent, problem)
            raise
        if isinstance(done, Remembered):
            return await self._twin(principal.workspace_id, done, intent.idempotency)
        if done.failure is not None:
            # The code alone: what the other side said, and who it is, stays in the attempt.
            about = (done.attempt_id, done.action, done.status, done.failure.code)
            with context.bound(request_id=ask.request_id, attempt_id=done.attempt_id, action=done.action):
                log.warning("attempt %s of %s is %s: %s", *about)
        return done

    def known(self, action: str) -> ActionSpec | None:
        """Return an action of this installation, whoever may use it, or None."""
        return self._catalog.get(action)

    async def led_to(self, workspace_id: str, principal_id: str, idempotency_key: str) -> AttemptState | None:
        """Return the attempt that an idempotency key has led to, None when to none.

        For an asker that cannot know whether it has asked before: that attempt counts, whatever has changed since.
        """
        key_hash = sha256_hex(idempotency_key.encode())
        remembered = await self._previews.remembered(workspace_id, (principal_id,), key_hash)
        return None if remembered is None else await self._twin(workspace_id, remembered, None)

    async def _allowed(
        self, principal: Principal, ask: Ask, spec: ActionSpec, step: Step, *, asked_at: int | None = None
    ) -> Intent:
        """Return what is about to be done with the decision about it now; 403 when that is a denial."""
        await self._checks.require_running(principal, spec)
        at = now()
        circumstances = Circumstances(
            at, ask.client, untrusted_content=ask.untrusted_content, asked_at=asked_at, origins=ask.origins
        )
        decision = await decide(self._policy, principal, spec, step, circumstances)
        owners = await self._previews.owners(principal) if ask.idempotency_key is not None else ()
        intent = Intent(principal, ask, spec, step, decision, asked_at or at, _idempotency(ask, spec, step, owners))
        if decision.effect == "deny":
            await self.attempts.deny(intent)
            raise Denied(decision.reason, policy_id=decision.policy_id, policy_version=decision.policy_version)
        return intent

    async def _go(self, intent: Intent) -> AttemptState | Remembered:
        if self._waits(intent):
            await self._require_possible(intent)
        if intent.decision.effect == "require_approval":
            if intent.ask.reads_version:
                raise Denied("This would need an approval, and nobody is asked for a read of a version.")
            return await self.holds.for_approval(intent)
        if self.holds.holds_back(intent):
            return await self.holds.hold_back(intent)
        return await self._effects.start(intent)

    def _waits(self, intent: Intent) -> bool:
        return intent.decision.effect == "require_approval" or self.holds.holds_back(intent)

    async def _require_possible(self, intent: Intent) -> None:
        """Refuse (403) at once what nobody could let happen, before anybody is asked to agree to it."""
        rendering = await asyncio.to_thread(intent.spec.render, intent.step, self._catalog.client(intent.spec.name))
        if rendering.refusal is not None:
            await self.attempts.deny(replace(intent, decision=_refused(intent.decision, rendering.refusal)))
            raise EgressDenied(rendering.refusal, code="egress_denied")

    async def _bound(self, intent: Intent) -> str | None:
        """Return the version of what a step changes, where it is bound to one: previewed, or about to wait.

        409 when it is not the one that the preview has found.
        """
        probe = self._probes.of(intent.spec, intent.step.params)
        if probe is None:
            return None
        preview_id = intent.ask.preview_id
        seen = None if preview_id is None else await self._previews.seen(intent.principal, preview_id)
        if seen is None and not (preview_id is None and self._waits(intent)):
            return None
        found = await self._probes.read(self.perform, intent.principal, probe, intent.ask)
        if seen is not None and found != seen:
            code, detail = CHANGED
            await self.attempts.deny(replace(intent, decision=Decision("deny", "builtin:state", 1, detail)))
            raise StateChanged(detail, code=code)
        return found

    async def _require_alive(self, principal: Principal) -> None:
        """A run outlives the request that started it; the credential may have died since."""
        if principal.auth_method == "api_key" and await self._credentials.reload(principal.credential_id) is None:
            raise Unauthenticated("The API key behind this is not valid any more.", reason="dead_credential")

    async def _remembered(self, principal: Principal, ask: Ask) -> Remembered | None:
        """A used preview with its own idempotency key answers what it led to, so the key is looked up first."""
        if ask.preview_id is None or ask.idempotency_key is None:
            return None
        key_hash = sha256_hex(ask.idempotency_key.encode())
        owners = await self._previews.owners(principal)
        found = await self._previews.remembered(principal.workspace_id, owners, key_hash)
        if found is not None and found.fingerprint != _preview_fingerprint(ask.preview_id):
            raise _mismatch()
        return found

    async def _step(self, principal: Principal, ask: Ask) -> tuple[ActionSpec, Step]:
        if ask.preview_id is not None:
            row, params = await self._previews.open(principal, ask.preview_id)
            spec = await self._named(principal, row.action, "/action", ask.request_id, ask.client)
            require_scope(principal, spec)
            return spec, self._previews.step(principal, spec, row, params)
        spec = await self._named(principal, ask.action or "", "/action", ask.request_id, ask.client)
        require_scope(principal, spec)
        return spec, make_step(principal, spec, valid_params(spec, ask.params))

    async def _twin(self, workspace_id: str, remembered: Remembered, idempotency: Idempotency | None) -> AttemptState:
        """Answer for an attempt that exists already, waiting a while for one that still runs."""
        if idempotency is not None and remembered.fingerprint not in ("", idempotency.fingerprint):
            raise _mismatch()
        until = time.monotonic() + TWIN_SECONDS
        while True:
            state = await self.attempts.state(workspace_id, remembered.subject_id)
            left = until - time.monotonic()
            if state.status != "running" or state.held_until is not None or left <= 0:
                return state
            await self.attempts.settled(state.attempt_id, left)


def _refused(decision: Decision, refusal: str) -> Decision:
    return Decision("deny", "builtin:egress", 1, refusal, inputs=decision.inputs)


def _idempotency(ask: Ask, spec: ActionSpec, step: Step, owners: tuple[str, ...]) -> Idempotency | None:
    if ask.idempotency_key is None:
        return None
    if ask.preview_id is not None:
        fingerprint = _preview_fingerprint(ask.preview_id)
    else:
        # The key itself is stored as a hash only; with it in the form, short parameters cannot be guessed from a dump.
        form = {"key": ask.idempotency_key, "action": spec.name, "params": spec.digest_form(step.params)}
        fingerprint = sha256_hex(canonical_json(form))
    return Idempotency(sha256_hex(ask.idempotency_key.encode()), fingerprint, owners)


def _preview_fingerprint(preview_id: str) -> str:
    return sha256_hex(canonical_json({"preview": preview_id}))


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch("This Idempotency-Key was used with another request; use a new one.")
