"""Second stage: may this principal run this step? An error while deciding is a denial."""

import logging
from typing import Final

from relay.catalog import ActionSpec
from relay.core.action import Decision, Step
from relay.core.circumstances import Circumstances
from relay.core.principal import Principal
from relay.policy.interface import Policy
from relay.store.writer import StoreUnavailable
from relay.telemetry.metrics import Metrics
from relay.telemetry.spans import span

_EFFECTS: Final = ("allow", "deny", "require_approval")

log = logging.getLogger("relay.gate")


class Counted:
    """A policy whose decisions are counted; breaking, or answering something else, counts as the denial that it is."""

    def __init__(self, policy: Policy, metrics: Metrics) -> None:
        self._policy = policy
        self._decisions = metrics.counter("relay_decisions_total")

    async def decide(
        self, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
    ) -> Decision:
        try:
            decision = await self._policy.decide(principal, spec, step, circumstances)
        except StoreUnavailable:
            raise
        except Exception:  # whatever broke, it is raised on
            self._decisions.add("deny", "true")
            raise
        if decision.effect in _EFFECTS:
            self._decisions.add(decision.effect, "true" if decision.error else "false")
        else:
            self._decisions.add("deny", "true")
        return decision

    async def could_run(self, principal: Principal, spec: ActionSpec) -> bool:
        return await self._policy.could_run(principal, spec)


async def decide(
    policy: Policy, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
) -> Decision:
    """Return the policy's decision; a policy that breaks, or answers something else, has denied.

    What the credential itself may not run is denied before any policy is asked.
    :class:`~relay.store.writer.StoreUnavailable` when the policies cannot be read: nobody has decided then.
    """
    with span("decide", relay__action=spec.name) as recording:
        decision = await _decided(policy, principal, spec, step, circumstances)
        recording.set(relay__effect=decision.effect, relay__policy=decision.policy_id)
        return decision


async def _decided(
    policy: Policy, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
) -> Decision:
    if principal.actions is not None and spec.name not in principal.actions:
        return Decision("deny", "builtin:key", 1, "This key was made for other actions.")
    try:
        decision = await policy.decide(principal, spec, step, circumstances)
    except StoreUnavailable:
        raise
    except Exception as error:  # whatever broke in a policy must end in a denial, never in an action
        log.error("the policy failed for %s: %s", spec.name, type(error).__name__)
        return Decision("deny", "builtin:error", 1, "The policy could not be evaluated.", error=True)
    if decision.effect not in _EFFECTS:
        return Decision("deny", decision.policy_id, decision.policy_version, "The policy gave no decision.", error=True)
    return decision
