"""Plans: from a prompt to steps that the gate has considered, kept until somebody executes them, once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from relay.audit.record import event
from relay.catalog import ActionSpec
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.plan import Proposal
from relay.core.principal import Principal
from relay.core.problem import Gone, Internal, Invalid, NotFound
from relay.crypto.digest import equal
from relay.gate.perform import Performer
from relay.llm.messages import Payer
from relay.runs.steps import ConsideredStep, Inputs, RunStep, StepDraft, arrange, consider, pack, plan_digest, unpack
from relay.store.database import Database
from relay.store.plans import PlanRepository, PlanRow
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.telemetry.metrics import Metrics
from relay.telemetry.spans import span

_PURPOSE: Final = "plan"
_NOT_VALID: Final = "The planner proposed steps that are not valid, so none are offered. Say it in other words."


class Planner(Protocol):
    """What plans need of a planner; ``relay.planning`` has them."""

    async def propose(
        self, prompt: str, context: dict[str, Any] | None, actions: Sequence[ActionSpec], payer: Payer
    ) -> Proposal:
        """Return a proposal made of ``actions`` alone."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A stored plan as its maker sees it. ``steps`` is empty when the planner would not guess."""

    id: str
    proposal: Proposal
    steps: Sequence[ConsideredStep]
    digest: str
    expires_at: int


class Plans:
    """Makes plans and opens them for execution. ``ttl`` is in microseconds."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        gate: Performer,
        planner: Planner,
        *,
        ttl: int,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._gate = gate
        self._planner = planner
        self._seconds = (metrics or Metrics.off()).histogram("relay_plan_duration_seconds")
        self._ttl = ttl

    async def make(
        self, principal: Principal, prompt: str, context: dict[str, Any] | None, request_id: str, client: str = ""
    ) -> Plan:
        """Ask the planner, consider every step it proposes, and store the plan for this principal.

        ``client`` is the address that the plan is asked for from, empty when unknown.

        503 when no model answers, 429 when the principal's budget for models has too little left; nothing is stored
        then. Nothing is executed. A proposal with a step that is not valid becomes a plan without steps, since half of
        what was asked for is not what was asked for.
        """
        visible, began = await self._gate.visible(principal), time.perf_counter()
        with span("plan") as recording:
            offered = [spec for spec in visible if not spec.honey]
            payer = Payer(principal.workspace_id, principal.account, principal.id, request_id, "plan")
            proposal = await self._planner.propose(prompt, context, offered, payer)
            recording.set(relay__planner=proposal.planner, relay__steps=len(proposal.steps))
        self._seconds.observe(time.perf_counter() - began, proposal.planner)
        try:
            considered = await self._considered(principal, proposal, client, request_id)
        except Invalid:
            proposal = Proposal(proposal.intent, (), 0.0, _NOT_VALID, proposal.planner)
            considered = []
        plan_id, at, nonce = new_id("pln"), now(), new_id("nce")
        steps = [found.step for found in considered]
        digest = plan_digest(principal.workspace_id, principal.id, nonce, steps)
        row = PlanRow(
            id=plan_id,
            workspace_id=principal.workspace_id,
            principal_id=principal.id,
            planner=proposal.planner,
            digest=digest,
            created_at=at,
            expires_at=at + self._ttl,
        )
        await self._store(row, nonce, steps, request_id)
        return Plan(plan_id, proposal, considered, digest, row.expires_at)

    async def _considered(
        self, principal: Principal, proposal: Proposal, client: str, request_id: str
    ) -> list[ConsideredStep]:
        if not proposal.steps:
            return []
        drafts = [StepDraft(step.action, step.params, step.id, step.depends_on) for step in proposal.steps]
        return await consider(self._gate, principal, arrange(drafts), client, request_id)

    async def _store(self, row: PlanRow, nonce: str, steps: Sequence[RunStep], request_id: str) -> None:
        sealed = self._vault.seal(
            pack(Inputs(nonce, tuple(steps))),
            workspace=row.workspace_id,
            purpose=_PURPOSE,
            record_id=row.id,
            expires_at=row.expires_at,
        )
        draft = event(
            "gate:plan:made",
            workspace_id=row.workspace_id,
            principal=row.principal_id,
            request_id=request_id,
            target=row.id,
            digest=row.digest,
        )
        plans = PlanRepository(row.workspace_id, row.principal_id)

        def unit(tx: Tx) -> None:
            plans.insert(tx, row)
            self._vault.put(tx, sealed)
            tx.record(draft)

        await self._database.writer.run(unit)

    async def open(self, principal: Principal, plan_id: str) -> tuple[RunStep, ...]:
        """Return the steps of a plan that may be executed now.

        404 when there is no such plan of this principal, 410 when it has expired or was executed, 422 when it has no
        steps.
        """
        row = await PlanRepository(principal.workspace_id, principal.id).find(self._database.reader, plan_id)
        require_usable(row, now())
        assert row is not None
        sealed = await self._vault.open(workspace=row.workspace_id, purpose=_PURPOSE, record_id=row.id)
        if sealed is None:
            raise _spent()
        inputs = unpack(sealed)
        digest = plan_digest(row.workspace_id, row.principal_id, inputs.nonce, inputs.steps)
        if not equal(digest.encode(), row.digest.encode()):
            raise Internal("The stored plan does not match its digest.")
        if not inputs.steps:
            message = "This plan has no steps; its explanation says why."
            raise Invalid(message, errors=[{"pointer": "/plan_id", "message": message}])
        return inputs.steps


def require_usable(row: PlanRow | None, at: int) -> None:
    """Refuse a plan that is not there (404), or that has expired or was executed (410)."""
    if row is None:
        raise NotFound("There is no such plan of yours.")
    if row.used_at is not None or row.expires_at <= at:
        raise _spent()


def _spent() -> Gone:
    return Gone("This plan has expired or was executed; make a new one.")
