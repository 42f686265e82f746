"""Second stage: may this principal run this step? An error while deciding is a denial."""

import logging

from relay.catalog import ActionSpec
from relay.core.action import Decision, Step
from relay.core.circumstances import Circumstances
from relay.core.principal import Principal
from relay.policy.interface import Policy
from relay.store.writer import StoreUnavailable

log = logging.getLogger("relay.gate")


async def decide(
    policy: Policy, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
) -> Decision:
    """Return the policy's decision; a policy that breaks, or answers something else, has denied.

    :class:`~relay.store.writer.StoreUnavailable` when the policies cannot be read: nobody has decided then.
    """
    try:
        decision = await policy.decide(principal, spec, step, circumstances)
    except StoreUnavailable:
        raise
    except Exception as error:  # whatever broke in a policy must end in a denial, never in an action
        log.error("the policy failed for %s: %s", spec.name, type(error).__name__)
        return Decision("deny", "builtin:error", 1, "The policy could not be evaluated.")
    if decision.effect not in ("allow", "deny", "require_approval"):
        return Decision("deny", decision.policy_id, decision.policy_version, "The policy gave no decision.")
    return decision
