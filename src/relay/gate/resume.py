"""Attempts that have waited begin: everything is looked at again, since what allowed them then may not do so now."""

import logging
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from relay.approvals.outlook import Agreement, Outlook
from relay.approvals.persons import agreement_of
from relay.catalog import ActionSpec, Catalog
from relay.core.action import Decision, Step
from relay.core.circumstances import Circumstances
from relay.core.clock import MICROSECONDS, now
from relay.core.principal import Principal
from relay.core.problem import BudgetExhausted, Limited, Problem, Unavailable
from relay.gate.ask import Intent
from relay.gate.asked import Asked
from relay.gate.attempts import Attempts
from relay.gate.authenticate import Credentials
from relay.gate.checks import Checks
from relay.gate.decide import decide
from relay.gate.effect import Effects
from relay.gate.hold import Holds
from relay.gate.perform import Performer
from relay.gate.probe import CHANGED, Probes
from relay.gate.validate import make_step
from relay.policy.interface import Policy
from relay.policy.stops import problem_of
from relay.store.approvals import ApprovalRepository, ApprovalRow
from relay.store.attempts import AttemptRow, attempt_of_any_workspace
from relay.store.database import Database
from relay.store.vault import Vault
from relay.store.writer import StoreUnavailable
from relay.telemetry import context
from relay.telemetry.spans import cause_of, root

_FORBIDDEN: Final = 403
_CONFLICT: Final = 409

log = logging.getLogger("relay.gate")


class _Refused(Exception):
    """The attempt may not begin: its end, a code and a sentence. ``passes`` says that it might another time."""

    def __init__(
        self, code: str, detail: str, status: str = "denied", *, http: int = _FORBIDDEN, passes: bool = False
    ) -> None:
        super().__init__(code)
        self.status = status
        self.passes = passes
        self.error = (code, detail, http)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An attempt that waits, with everything that it was asked with."""

    principal: Principal
    spec: ActionSpec
    step: Step
    asked: Asked


class Resumer:
    """Begins attempts that are ready. Safe to call for any attempt, at any time, in any number of processes."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        catalog: Catalog,
        policy: Policy,
        credentials: Credentials,
        checks: Checks,
        attempts: Attempts,
        holds: Holds,
        effects: Effects,
        probes: Probes,
        performer: Performer,
    ) -> None:
        self._database = database
        self._vault = vault
        self._catalog = catalog
        self._policy = policy
        self._credentials = credentials
        self._checks = checks
        self._attempts = attempts
        self._holds = holds
        self._effects = effects
        self._probes = probes
        self._performer = performer

    async def work(self, attempt_id: str) -> None:
        """Bring an attempt whose time has come to its end; do nothing for any other.

        What the database cannot take now is left as it is, for the next sweep.
        """
        try:
            row = await attempt_of_any_workspace(self._database.reader, attempt_id)
            if row is None or row.status != "ready" or (row.not_before or 0) > now():
                return
            with (
                context.alone(
                    request_id=row.request_id,
                    principal=row.principal_id,
                    workspace=row.workspace_id,
                    attempt_id=row.id,
                    action=row.action,
                ),
                root("attempt", parent=cause_of(row.request_id), about=_about(row)),
            ):
                await self._work(row)
        except StoreUnavailable as error:
            log.warning("attempt %s waits for the database: %s", attempt_id, error)

    async def _work(self, row: AttemptRow) -> None:
        try:
            intent = await self._intent(row)
        except _Refused as refusal:
            await self._holds.refuse(row, refusal.status, refusal.error)
            return
        try:
            state = await self._effects.resume(intent, row)
        except BudgetExhausted as problem:
            await self._checks.refused(intent, problem)
            await self._holds.refuse(row, "denied", (problem.slug, problem.detail, problem.status))
            return
        except (Limited, Unavailable) as problem:
            # Too much at once, or nothing can be counted now: what was agreed to begins when that has passed.
            await self._holds.postpone(row, now() + problem.extensions["retry_after"] * MICROSECONDS)
            return
        except Problem as problem:
            await self._holds.refuse(row, "denied", (problem.slug, problem.detail, problem.status))
            return
        if state is not None and state.failure is not None:
            about = (state.attempt_id, state.action, state.status, state.failure.code)
            log.warning("attempt %s of %s is %s: %s", *about)

    async def outlook(self, attempt: AttemptRow, agreement: Agreement) -> Outlook:
        """Return what would become of an attempt that waits for approval, if that were given by so many persons."""
        try:
            waiting = await self._looked_at(attempt)
        except _Refused as refusal:
            return Outlook(refusal.error, ends=not refusal.passes)
        decision = await self._decided(waiting, agreement)
        if decision.effect == "deny":
            return Outlook(("denied", f"Policy does not allow this any more: {decision.reason}", _FORBIDDEN))
        if decision.effect == "require_approval":
            return Outlook(wanted=Agreement(decision.approvers, decision.other_person))
        return Outlook()

    async def _intent(self, row: AttemptRow) -> Intent:
        """Return what is about to be done, decided anew; :class:`_Refused` when it is not to be done any more."""
        waiting, decision = await self._allowed(row)
        if waiting.asked.seen_version is not None:
            await self._require_unchanged(waiting, row)
            # The reading took as long as the other side pleased: what was looked at before it counts no more.
            waiting, decision = await self._allowed(row)
        asked = waiting.asked
        return Intent(
            waiting.principal,
            asked.ask(row),
            waiting.spec,
            waiting.step,
            decision,
            asked.asked_at,
            seen_version=asked.seen_version,
        )

    async def _allowed(self, row: AttemptRow) -> tuple[_Waiting, Decision]:
        """Return who asked for what, and the decision that allows it now."""
        waiting = await self._looked_at(row)
        approval, agreement = await self._agreed(row)
        if approval is not None and approval.digest != waiting.step.digest:
            raise _Refused("digest_mismatch", "What was approved is not what would be run.")
        decision = await self._decided(waiting, agreement)
        if decision.effect != "allow":
            raise _Refused("denied", f"Policy does not allow this any more: {decision.reason}")
        return waiting, decision

    async def _require_unchanged(self, waiting: _Waiting, row: AttemptRow) -> None:
        """Refuse where what the step changes is not as it was found; what cannot be read any more counts as changed."""
        seen = waiting.asked.seen_version
        if seen is None:
            return
        probe, perform = self._probes.of(waiting.spec, waiting.step.params), self._performer.perform
        ask = waiting.asked.ask(row)
        if probe is None or await self._probes.read(perform, waiting.principal, probe, ask) != seen:
            raise _Refused(*CHANGED, http=_CONFLICT)

    async def _looked_at(self, row: AttemptRow) -> _Waiting:
        """Return who asked for exactly what, all of it still valid."""
        principal = await self._credentials.reload(row.principal_id)
        if principal is None or principal.workspace_id != row.workspace_id:
            raise _Refused("credential_revoked", "The API key that asked for this is not valid any more.")
        spec = self._catalog.get(row.action)
        if spec is None or spec.version != row.version:
            raise _Refused("action_changed", "The action has changed since this was asked for; ask again.")
        if spec.scope not in principal.scopes:
            raise _Refused("insufficient_scope", f"The API key that asked for this lacks {spec.scope} now.")
        stop = await self._checks.stopped(principal, spec)
        if stop is not None:
            raise _Refused("stopped", problem_of(stop).detail, "cancelled", passes=True)
        params, sealed = await self._opened(row, "params"), await self._opened(row, "asked")
        asked = Asked.from_sealed(sealed)
        if principal.allowed_from is not None and not principal.allowed_from.admits(asked.client):
            raise _Refused("address_not_allowed", "The API key may not be used from where this was asked for any more.")
        return _Waiting(principal, spec, _same_step(principal, spec, row, params), asked)

    async def _decided(self, waiting: _Waiting, agreement: Agreement) -> Decision:
        circumstances = Circumstances(
            now(),
            waiting.asked.client,
            approvals=agreement.persons,
            other_person=agreement.other_person,
            untrusted_content=waiting.asked.untrusted_content,
            asked_at=waiting.asked.asked_at,
            origins=waiting.asked.origins,
        )
        return await decide(self._policy, waiting.principal, waiting.spec, waiting.step, circumstances)

    async def _opened(self, row: AttemptRow, purpose: str) -> bytes:
        plaintext = await self._vault.open(workspace=row.workspace_id, purpose=purpose, record_id=row.id)
        if plaintext is None:
            raise _Refused("inputs_erased", "The inputs of this attempt were erased after their retention.", "expired")
        return plaintext

    async def _agreed(self, row: AttemptRow) -> tuple[ApprovalRow | None, Agreement]:
        """Return the approval that let this attempt go, if it needed one, and who agreed to it."""
        if row.approval_id is None:
            return None, Agreement(0, False)
        approvals = ApprovalRepository(row.workspace_id)
        approval = await approvals.get(self._database.reader, row.approval_id)
        if approval is None or approval.status != "approved" or approval.attempt_id != row.id:
            raise _Refused("not_approved", "There is no approval of this attempt.")
        decisions = await approvals.decided(self._database.reader, approval.id)
        return approval, agreement_of(
            approval, [found for found in decisions if await self.is_alive(found.approver_id)]
        )

    async def is_alive(self, credential_id: str) -> bool:
        """Say whether a credential is valid now: what a key has agreed to ends with the key."""
        return await self._credentials.reload(credential_id) is not None


def _about(row: AttemptRow) -> dict[str, str]:
    return {"relay.action": row.action, "relay.attempt_id": row.id, "relay.request_id": row.request_id}


def _same_step(principal: Principal, spec: ActionSpec, row: AttemptRow, params: bytes) -> Step:
    """Return exactly the step that was asked for, or refuse."""
    try:
        step = make_step(principal, spec, spec.params.model_validate_json(params), row.nonce)
    except (ValidationError, Problem):
        raise _Refused(
            "action_changed", "The action's rules have changed since this was asked for; ask again."
        ) from None
    if step.digest != row.digest:
        raise _Refused("digest_mismatch", "What would be run is not what was asked for.")
    return step
