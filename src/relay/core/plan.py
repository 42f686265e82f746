"""A plan: steps that a planner proposes and that nobody has allowed yet."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One proposed step. ``params`` is plain JSON; a value may refer to an earlier step's result (see runs)."""

    id: str
    action: str
    params: dict[str, Any]
    summary: str
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a planner answers.

    ``steps`` is empty when the planner will not guess; ``explanation`` then says what is missing.
    ``confidence`` lies between 0 and 1. ``planner`` names who proposed it. ``link_hosts`` are the hosts to
    which links in what is told about its steps may stay; None where nobody but the caller has had a say in them.
    """

    intent: str
    steps: tuple[PlanStep, ...]
    confidence: float
    explanation: str
    planner: str
    warnings: tuple[str, ...] = field(default=())
    link_hosts: frozenset[str] | None = None
