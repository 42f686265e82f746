"""The embedded planner: no key, no network, deterministic. It would rather propose nothing than guess."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.core.plan import PlanStep, Proposal
from relay.llm.messages import Payer
from relay.planning.contacts import contacts_of, with_contacts, without_display_names
from relay.planning.describing import about, summary_of
from relay.planning.filling import Filled, fill
from relay.planning.guarding import refuse_non_request, refuse_turned_meaning
from relay.planning.profile import Profile, profile_of
from relay.planning.ranking import Ranked, margin, near, rank
from relay.planning.reading import read
from relay.planning.references import Earlier
from relay.planning.segmenting import Clause, split
from relay.planning.settling import completeness
from relay.planning.unclear import Unclear, shown
from relay.planning.words import VERBS

MAX_PROMPT_BYTES: Final = 16 * 1024
MAX_STEPS: Final = 20
_EXAMPLE: Final = "email ada@example.com about “Lunch” saying “See you at noon”"


@dataclass(frozen=True, slots=True)
class _Chosen:
    ranked: Ranked
    filled: Filled
    confidence: float


class LocalPlanner:
    """Implements :class:`relay.planning.protocol.Planner` by a small grammar of English requests.

    A prompt yields steps only when every word of it outside quotation marks has a known place and every step's
    parameters pass the action's schema; when one part fails, no part is proposed. Addresses and URLs are those
    that stand in the prompt outside quotation marks, or that ``context["contacts"]`` gives a name. Never raises
    for any prompt or context. ``docs/planning.md`` is its description for users.

    Confidence is that of the weakest step, and of a step ``completeness × (0.6 + 0.4 × margin)``: the share of
    the usual parameters that were given, and the lead in ranking over the best other action. It is 0 without steps.
    """

    name = "local"

    def __init__(self) -> None:
        self._profiles: dict[str, Profile] = {}

    async def propose(
        self,
        prompt: str,
        context: dict[str, Any] | None,
        actions: Sequence[ActionSpec],
        payer: Payer | None = None,
    ) -> Proposal:
        """Return a proposal for ``prompt`` that uses nothing but ``actions``; it costs nothing."""
        try:
            return self._plan(prompt, context, actions)
        except Unclear as unclear:
            return Proposal(shown(prompt[:200]), (), 0.0, str(unclear), self.name)

    def _plan(self, prompt: str, context: dict[str, Any] | None, actions: Sequence[ActionSpec]) -> Proposal:
        profiles = [self._profile(spec) for spec in actions]
        verbs = frozenset(spec.name.rpartition(".")[2].partition("_")[0] for spec in actions)
        labels = frozenset[str]().union(*(profile.labels for profile in profiles))
        clauses = _clauses(prompt, context, verbs, labels)
        steps: list[PlanStep] = []
        earlier: list[Earlier] = []
        chosen: list[_Chosen] = []
        for number, clause in enumerate(clauses, 1):
            try:
                refuse_non_request(clause, VERBS | verbs | {"message"})
                chosen.append(_choose(clause, profiles, prompt, earlier))
            except Unclear as unclear:
                raise Unclear(_located(prompt, clause, number, len(clauses), unclear)) from None
            profile, filled = chosen[-1].ranked.profile, chosen[-1].filled
            step = PlanStep(
                id=f"s{number}",
                action=profile.spec.name,
                params=filled.params,
                summary=summary_of(profile, filled.params),
                depends_on=tuple(sorted({f"s{number - 1}", *filled.refers_to}, key=_number)) if steps else (),
            )
            steps.append(step)
            earlier.append(Earlier(step.id, profile.results, about(profile, filled.params)))
        return _proposal(self.name, steps, chosen)

    def _profile(self, spec: ActionSpec) -> Profile:
        known = self._profiles.get(spec.name)
        if known is None or known.spec is not spec:
            known = self._profiles[spec.name] = profile_of(spec)
        return known


def _clauses(
    prompt: str, context: dict[str, Any] | None, verbs: frozenset[str], labels: frozenset[str]
) -> list[Clause]:
    if len(prompt) > MAX_PROMPT_BYTES or len(prompt.encode(errors="replace")) > MAX_PROMPT_BYTES:
        raise Unclear(f"The prompt is longer than {MAX_PROMPT_BYTES // 1024} KiB; please shorten it.")
    tokens = read(prompt)
    refuse_turned_meaning(tokens)
    clauses = split(with_contacts(without_display_names(tokens), contacts_of(context, labels)), verbs)
    if not clauses:
        raise Unclear(f"The prompt asks for nothing; say what to do, for instance: {_EXAMPLE}")
    if len(clauses) > MAX_STEPS:
        raise Unclear(f"The prompt asks for {len(clauses)} steps; at most {MAX_STEPS} are planned at once.")
    return clauses


def _choose(clause: Clause, profiles: Sequence[Profile], prompt: str, earlier: Sequence[Earlier]) -> _Chosen:
    """Return the one plausible action that the clause fills; of several that it fills, none."""
    ranked = rank(clause, profiles)
    if not ranked:
        raise Unclear("no action that you may run does this")
    fitting: list[tuple[Ranked, Filled]] = []
    reasons: list[Unclear] = []
    for entry in near(ranked):
        try:
            fitting.append((entry, fill(entry.profile, clause, prompt, earlier)))
        except Unclear as unclear:
            reasons.append(unclear)
    if not fitting:
        raise min(reasons, key=lambda reason: reason.strange)
    if len(fitting) > 1:
        names = " and ".join(entry.profile.spec.name for entry, _ in fitting)
        raise Unclear(f"{names} fit equally well; name the one that is meant")
    entry, filled = fitting[0]
    confidence = completeness(entry.profile, filled.params) * (0.6 + 0.4 * margin(entry, ranked))
    return _Chosen(entry, filled, confidence)


def _located(prompt: str, clause: Clause, number: int, total: int, unclear: Unclear) -> str:
    part = shown(prompt[clause.start : clause.end])
    if total == 1:
        return f"Nothing is planned: {unclear}. (In {part}.)"
    return f"Nothing is planned, since part {number} of {total}, {part}, is unclear: {unclear}."


def _proposal(planner: str, steps: Sequence[PlanStep], chosen: Sequence[_Chosen]) -> Proposal:
    understood = "; ".join(f"{step.id}: {step.summary} ({step.action})" for step in steps)
    count = "one step" if len(steps) == 1 else f"{len(steps)} steps"
    return Proposal(
        intent=", then ".join(step.summary for step in steps),
        steps=tuple(steps),
        confidence=round(min(choice.confidence for choice in chosen), 2),
        explanation=f"Understood {count}. {understood}.",
        planner=planner,
        warnings=tuple(
            f"{step.id}: {text}" for step, choice in zip(steps, chosen, strict=True) for text in choice.filled.warnings
        ),
    )


def _number(step_id: str) -> int:
    return int(step_id[1:])
