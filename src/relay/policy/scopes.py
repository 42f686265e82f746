"""The built-in policy: whoever holds the action's scope may read and write; nobody may destroy."""

from relay.catalog import ActionSpec
from relay.core.action import Decision, Step
from relay.core.circumstances import Circumstances
from relay.core.principal import Principal

POLICY_ID = "builtin:scopes"
POLICY_VERSION = 1


class ScopePolicy:
    """Allows reads and writes with the action's scope; denies the rest."""

    async def decide(
        self, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
    ) -> Decision:
        if spec.scope not in principal.scopes:
            return _decision("deny", f"This needs the scope {spec.scope}.")
        if spec.effect == "destructive":
            return _decision("deny", "Destructive actions are not allowed.")
        return _decision("allow", f"The key holds {spec.scope}, and a {spec.effect} needs no more.")

    async def could_run(self, principal: Principal, spec: ActionSpec) -> bool:
        """A key without the scope sees the action all the same when it may preview it; a destructive one never."""
        return spec.effect != "destructive"


def _decision(effect: str, reason: str) -> Decision:
    return Decision(effect=effect, policy_id=POLICY_ID, policy_version=POLICY_VERSION, reason=reason)  # type: ignore[arg-type]
