"""The interface through which the gate asks what may run."""

from typing import Protocol

from relay.catalog import ActionSpec
from relay.core.action import Decision, Step
from relay.core.circumstances import Circumstances
from relay.core.principal import Principal


class Policy(Protocol):
    """Decides about one step. An implementation that fails must raise: the gate takes an error for a denial."""

    async def decide(
        self, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
    ) -> Decision:
        """Return the decision about a step of this principal."""
        ...

    async def could_run(self, principal: Principal, spec: ActionSpec) -> bool:
        """Say whether there are parameters with which the principal may run the action, with or without approval."""
        ...
