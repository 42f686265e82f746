"""State: reading the version of what a step changes, so that nothing is changed that has become another thing since.

A read is an effect at a place that a caller chose. It takes the guarded path like any action, and only where policy
allows the requester that very read without anybody's approval.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from relay.catalog import ActionSpec, Catalog, Probe
from relay.core.circumstances import Circumstances
from relay.core.clock import now
from relay.core.origins import Origins
from relay.core.principal import Principal
from relay.core.problem import Problem
from relay.gate.ask import Ask, AttemptState
from relay.gate.checks import Checks
from relay.gate.decide import decide
from relay.gate.validate import make_step, valid_params
from relay.policy.interface import Policy

CHANGED: Final = (
    "state_changed",
    "What this would change is not as it was when it was looked at; make a new preview, or ask again.",
)
STATE_CHANGED: Final = CHANGED[0]
UNREAD: Final = "What this changes was not read; its state is not checked."
PROBE_SECONDS: Final = 5.0

Perform = Callable[[Principal, Ask], Awaitable[AttemptState]]


class Probes:
    """Reads versions by performing the actions that other actions name for it."""

    def __init__(self, catalog: Catalog, policy: Policy, checks: Checks) -> None:
        self._catalog = catalog
        self._policy = policy
        self._checks = checks

    @staticmethod
    def of(spec: ActionSpec, params: Any) -> Probe | None:
        """Return how to read the version of what a step changes, None where there is no such thing."""
        return spec.probe(params)

    async def read(self, perform: Perform, principal: Principal, probe: Probe, ask: Ask) -> str | None:
        """Return the version that is found now, None where it may not be read, cannot be, or there is none.

        ``ask`` is what the reading is for. The read is an attempt of the principal's own, recorded like any.
        """
        wish = Ask(
            request_id=ask.request_id,
            client=ask.client,
            action=probe.action,
            params=probe.params,
            untrusted_content=ask.untrusted_content,
            origins=_origins(probe, ask),
            timeout=PROBE_SECONDS,
            still=ask.still,
            reads_version=True,
        )
        try:
            if not await self._is_allowed(principal, wish):
                return None
            state = await perform(principal, wish)
        except Problem:
            return None
        return probe.version(state.result) if state.status == "succeeded" and state.result is not None else None

    async def _is_allowed(self, principal: Principal, wish: Ask) -> bool:
        """Look before the gate does, so that what is not to be read leaves no denials in the audit trail."""
        spec = self._catalog.get(wish.action or "")
        if spec is None or spec.scope not in principal.scopes:
            return False
        if await self._checks.stopped(principal, spec) is not None:
            return False
        step = make_step(principal, spec, valid_params(spec, wish.params))
        circumstances = Circumstances(
            now(), wish.client, untrusted_content=wish.untrusted_content, origins=wish.origins
        )
        return (await decide(self._policy, principal, spec, step, circumstances)).effect == "allow"


def _origins(probe: Probe, ask: Ask) -> Origins | None:
    """Return where the parameters of a read came from: it is made of the step's, which may have other names."""
    if ask.origins is None or probe.action == ask.action:
        return ask.origins
    return ask.origins.spread(probe.params)
