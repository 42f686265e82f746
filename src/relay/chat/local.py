"""The local planner as the one who answers: it calls what it has planned, and says plainly what came of it."""

import json
from collections.abc import Callable, Sequence
from typing import Final

from relay.chat.entries import CallEntry, Planned
from relay.chat.functions import function_name
from relay.chat.outward import Outward
from relay.chat.speaking import Spoken, Topic
from relay.core.references import BadReference, resolve
from relay.planning.local import LocalPlanner

LOCAL: Final = "local"
"""The kind of a turn that the local planner answers, and what stands for a model's name in it."""
_ENDS: Final = {
    "refused": "was refused",
    "denied": "was denied by a person",
    "expired": "was not decided in time",
    "cancelled": "was cancelled",
    "failed": "failed",
    "unknown": "has an outcome that nobody knows",
}


class LocalSpeaker:
    """Answers without any model: one step of the plan after another, the results of earlier ones filled in."""

    def __init__(self, planner: LocalPlanner, outward: Outward) -> None:
        self._planner = planner
        self._outward = outward

    async def speak(self, topic: Topic, heard: Callable[[str], None]) -> Spoken:
        """Return the next step as a call, or say what the steps have come to."""
        conversation = topic.conversation
        answers, calls = conversation.answers(), conversation.calls()
        if not answers:
            return await self._first(topic, heard)
        planned = answers[0].planned
        if len(calls) < len(planned) and all(call.status == "succeeded" for call in calls):
            return _step(planned, calls, "")
        text = told(calls, planned)
        heard(self._outward.text(text))
        return Spoken(text, LOCAL)

    async def _first(self, topic: Topic, heard: Callable[[str], None]) -> Spoken:
        said = topic.conversation.said()
        text = "" if said is None else said.text
        proposal = await self._planner.propose(text, None, list(topic.offer.specs.values()))
        if not proposal.steps:
            heard(self._outward.text(proposal.explanation))
            return Spoken(proposal.explanation, LOCAL)
        planned = tuple(Planned(step.id, step.action, step.params) for step in proposal.steps)
        return _step(planned, [], "")


def _step(planned: Sequence[Planned], calls: Sequence[CallEntry], text: str) -> Spoken:
    """Return the next step as a call, with what it takes from the results of earlier ones."""
    step = planned[len(calls)]
    results = {before.id: call.result for before, call in zip(planned, calls, strict=False) if call.result is not None}
    try:
        params = resolve(step.params, results)
    except BadReference as error:
        sentence = f"{step.action} cannot be called: {error}"
        return Spoken(f"{told(calls, planned[: len(calls)])} {sentence}".strip(), LOCAL)
    arguments = json.dumps(params, ensure_ascii=False, allow_nan=False)
    return Spoken(text, LOCAL, ((function_name(step.action), arguments),), planned=tuple(planned))


def told(calls: Sequence[CallEntry], planned: Sequence[Planned]) -> str:
    """Return what calls have come to, in plain sentences that hold nothing of their results."""
    sentences = [_sentence(call) for call in calls]
    if left := [step.action for step in planned[len(calls) :]]:
        sentences.append(f"So {' and '.join(left)} {'was' if len(left) == 1 else 'were'} not called.")
    return " ".join(sentences)


def _sentence(call: CallEntry) -> str:
    summary = call.summary.rstrip(".")
    if call.status == "succeeded":
        return f"Done: {summary} ({call.action})."
    if call.status == "previewed":
        return f"This would be done by somebody who may: {summary} ({call.action})."
    detail = f": {call.error[1]}" if call.error is not None else "."
    return f"{call.action} {_ENDS.get(call.status, call.status)}{detail}"
