"""What every planner offers."""

from collections.abc import Sequence
from typing import Any, Protocol

from relay.catalog import ActionSpec
from relay.core.plan import Proposal
from relay.llm.messages import Payer


class Planner(Protocol):
    """Turns a prompt into proposed steps.

    ``name`` appears as ``planner`` in answers. ``propose`` sees only the actions that it is given (those that the
    principal may run) and returns steps whose parameters pass their action's schema, or none and an
    explanation. Both ``prompt`` and ``context`` are data from a caller: neither grants anything. ``payer`` pays where
    a model is asked.
    """

    name: str

    async def propose(
        self, prompt: str, context: dict[str, Any] | None, actions: Sequence[ActionSpec], payer: Payer
    ) -> Proposal:
        """Return a proposal for ``prompt``; it never performs anything.

        A planner that asks a model raises :class:`~relay.core.problem.ModelUnavailable` (503) where none answers, and
        :class:`~relay.core.problem.SpendingExhausted` (429) where the payer's budget has too little left.
        """
        ...
