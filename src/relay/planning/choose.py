"""Which planner an installation has, and what its answers say about that."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.core.plan import Proposal
from relay.core.problem import ModelUnavailable
from relay.llm.messages import Payer
from relay.llm.protocol import Models
from relay.planning.llm import ModelPlanner
from relay.planning.local import LocalPlanner
from relay.planning.protocol import Planner
from relay.settings import Settings

NO_MODEL: Final = "No model is configured: the local planner made this plan, which knows a small part of English."
NO_ANSWER: Final = "No model answers: the local planner made this plan, which knows a small part of English."

log = logging.getLogger("relay")


class WithoutModel:
    """The local planner of an installation without a model; every answer says so."""

    name = LocalPlanner.name

    def __init__(self, local: LocalPlanner) -> None:
        self._local = local

    async def propose(
        self, prompt: str, context: dict[str, Any] | None, actions: Sequence[ActionSpec], payer: Payer
    ) -> Proposal:
        """Return the local planner's proposal with a warning that says whose it is."""
        return _said(await self._local.propose(prompt, context, actions, payer), NO_MODEL)


class WithFallback:
    """A model's planner that the local one stands in for where no model answers; every answer says which it was.

    A budget that is used up stays a refusal: what a caller may not pay for is no outage.
    """

    name = ModelPlanner.name

    def __init__(self, model: Planner, local: LocalPlanner) -> None:
        self._model = model
        self._local = local

    async def propose(
        self, prompt: str, context: dict[str, Any] | None, actions: Sequence[ActionSpec], payer: Payer
    ) -> Proposal:
        """Return the model's proposal, or the local planner's with a warning; 429 as the model's planner."""
        try:
            return await self._model.propose(prompt, context, actions, payer)
        except ModelUnavailable as problem:
            log.warning("no model answers, the local planner plans: %s", problem.detail)
            return _said(await self._local.propose(prompt, context, actions, payer), NO_ANSWER)


def choose_planner(settings: Settings, models: Models) -> Planner:
    """Return the planner of an installation: a model's where it has one, else the local one.

    Where no model answers that is a 503, unless ``AI_FALLBACK_LOCAL`` lets the local planner stand in.
    """
    local = LocalPlanner()
    if models.name is None:
        return WithoutModel(local)
    planner = ModelPlanner(models, link_hosts=settings.ai_link_hosts)
    return WithFallback(planner, local) if settings.ai_fallback_local else planner


def _said(proposal: Proposal, warning: str) -> Proposal:
    return replace(proposal, warnings=(warning, *proposal.warnings))
