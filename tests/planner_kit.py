"""For tests of planning: the actions of the real connectors, and models that say what they are told to."""

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.connectors import echo, email, http, webhook
from relay.core.plan import Proposal
from relay.core.problem import Problem
from relay.llm.messages import Answer, FunctionCall, Payer, Piece, Question, Usage
from relay.planning.wording import PROPOSE

ACTIONS: Final[list[ActionSpec]] = [
    spec for part in (email, http, webhook, echo) for spec in part.connector.actions.values()
]
PAYER: Final = Payer("default", "key_payer", "key_payer", "req_test_plan", "plan")


class Told:
    """Models that give one answer to every question, or raise it, and remember what they were asked and for whom."""

    def __init__(self, answer: Answer | Problem, name: str | None = "scripted-1") -> None:
        self.answer = answer
        self.name = name
        self.asked: list[tuple[Question, Payer]] = []

    async def ask(self, question: Question, payer: Payer) -> Answer:
        self.asked.append((question, payer))
        if isinstance(self.answer, Problem):
            raise self.answer
        return self.answer

    def stream(self, question: Question, payer: Payer) -> AsyncIterator[Piece | Answer]:
        raise AssertionError("a plan is asked for as a whole")


def calls(*arguments: str, name: str = PROPOSE, text: str = "") -> Answer:
    """Return an answer that calls a function with each of ``arguments``, which are text as a model writes it."""
    made = tuple(FunctionCall(f"call_{number}", name, given) for number, given in enumerate(arguments))
    return Answer(text, made, Usage(10, 5), "scripted-1")


def says(text: str) -> Answer:
    """Return an answer of words alone."""
    return Answer(text, (), Usage(10, 5), "scripted-1")


def planned(*steps: Any, explanation: Any = "As you asked.", **more: Any) -> str:
    """Return the arguments of a plan."""
    return json.dumps({"steps": list(steps), "explanation": explanation, **more})


def step(action: str, depends_on: Any = None, **params: Any) -> dict[str, Any]:
    """Return a step as a model writes it."""
    return {"action": action, "params": params} | ({} if depends_on is None else {"depends_on": depends_on})


def done(proposal: Proposal) -> list[tuple[str, dict[str, Any]]]:
    """Return the actions of a proposal with their parameters."""
    return [(one.action, one.params) for one in proposal.steps]
