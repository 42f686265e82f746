"""The planner that asks a language model, and believes it nothing."""

from collections.abc import Sequence
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.core.links import harmless
from relay.core.plan import Proposal
from relay.llm.messages import Payer
from relay.llm.protocol import Models
from relay.planning.answering import Answered, answered
from relay.planning.checking import MAX_STEPS, Checked, Kept, check
from relay.planning.confidence import Judged, judge
from relay.planning.grounds import grounds_of
from relay.planning.narrowing import narrow
from relay.planning.unclear import shortened, shown
from relay.planning.wording import question_of

MAX_ACTIONS: Final = 40
"""How many actions a model is offered at once; of more, those that the prompt is most likely to mean."""

WITHHELD: Final = "What looks like a credential was not shown to the model; *** stood in its place."

_MAX_WORDS: Final = 1000
_MAX_INTENT: Final = 1000
_MAX_DROPS: Final = 5


class ModelPlanner:
    """Implements :class:`relay.planning.protocol.Planner` by a language model.

    What the model answers is data: of its steps those are proposed that :func:`relay.planning.checking.check` keeps;
    the others are named in explanation and warnings, with the reason, and lower the confidence. The confidence is
    computed (see :mod:`relay.planning.confidence`); the model has no say in it. Its words appear as a quotation in the
    explanation alone, in a form that is safe to show; ``link_hosts`` are the hosts to which links in them stay.
    """

    name = "model"

    def __init__(self, models: Models, *, link_hosts: Sequence[str] = ()) -> None:
        self._models = models
        self._link_hosts = tuple(link_hosts)

    async def propose(
        self, prompt: str, context: dict[str, Any] | None, actions: Sequence[ActionSpec], payer: Payer
    ) -> Proposal:
        """Return a proposal for ``prompt`` that uses nothing but ``actions``; 503 and 429 as the protocol says."""
        offered = narrow(prompt, [spec for spec in actions if not spec.honey], MAX_ACTIONS)
        if not offered:
            return Proposal(shown(prompt[:200]), (), 0.0, "There is no action that you may run.", self.name)
        asking = question_of(prompt, context, offered, MAX_STEPS)
        answer = await self._models.ask(asking.question, payer)
        read = answered(answer)
        checked = check(read.steps, offered, grounds_of(prompt, context), withheld=asking.withheld)
        warnings = [*asking.warnings, *([WITHHELD] if asking.withheld else []), *_warnings(read, checked)]
        # Whatever holds a model's words leaves without a way to a host that neither operator nor caller has named.
        hosts = {*self._link_hosts, *(host for kept in checked.kept for host in kept.hosts)}
        return Proposal(
            intent=harmless(_intent(checked.kept), hosts) if checked.kept else shown(prompt[:200]),
            steps=tuple(kept.step for kept in checked.kept),
            confidence=judge(Judged(prompt, context, offered, checked, faults=len(read.faults))),
            explanation=harmless(_explanation(answer.model, read, checked), hosts),
            planner=self.name,
            warnings=tuple(harmless(warning, hosts) for warning in warnings),
            link_hosts=frozenset(hosts),
        )


def _explanation(model: str, read: Answered, checked: Checked) -> str:
    count = len(checked.kept)
    parts = [f"{shortened(model, 80)} proposed {_counted(count)}."]
    parts += [f"{kept.step.id}: {shortened(kept.step.summary, 200)} ({kept.step.action})." for kept in checked.kept]
    parts += [*_left_out(checked), *read.faults]
    if words := shortened(read.words, _MAX_WORDS):
        parts.append(f"In its words: “{words}”")
    return " ".join(parts)


def _counted(count: int) -> str:
    return {0: "nothing that can be done", 1: "one step"}.get(count, f"{count} steps")


def _intent(kept: Sequence[Kept]) -> str:
    return shortened(", then ".join(entry.step.summary for entry in kept), _MAX_INTENT)


def _left_out(checked: Checked) -> list[str]:
    said = [str(dropped) for dropped in checked.dropped[:_MAX_DROPS]]
    rest = len(checked.dropped) - _MAX_DROPS
    return [*said, f"{rest} more of its steps were left out."] if rest > 0 else said


def _warnings(read: Answered, checked: Checked) -> list[str]:
    warnings = [*read.faults, *_left_out(checked)]
    for kept in checked.kept:
        for name in kept.from_context:
            warnings.append(f"{kept.step.id}: {shortened(name, 300)} is named in the context alone, not in the prompt.")
    return warnings
