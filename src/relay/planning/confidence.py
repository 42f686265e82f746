"""How sure a model's plan is: computed from what was asked and what was proposed, never asked of the model.

    confidence = 0.8 × fit × clarity × (0.85 + 0.15 × margin)

0.8, because what fits in every way may still not be what was meant: a subject and a text that changed places, say.

``fit``, whether the plan is in order: the share of the model's steps that were kept, times the completeness of the
weakest one (see :func:`relay.planning.settling.completeness`), halved for each thing about the answer that was not in
order.

``clarity``, whether the words leave room for another plan: the share of the values' words that the caller has said (a
text that the model made up needs reading), times the share of what the caller named (addresses, URLs, quotations) that
the plan uses, each to the fifth power since a single word may be the one that matters; a tenth of that where the prompt
negates, makes conditional, postpones or asks, and where a step is there twice; three tenths of it where the plan has
more steps than the prompt has parts.

``margin``, whether another action was meant: by how much the actions of the plan lead the best other one in the local
ranking, for the weakest step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.planning.checking import Checked, Kept
from relay.planning.grounds import apart
from relay.planning.naming import named, names_of, texts_of, words_of
from relay.planning.narrowing import index_of, parts_of
from relay.planning.settling import completeness
from relay.planning.turning import turned
from relay.planning.words import RETRIEVALS

_MOST: Final = 0.8
_FLOOR: Final = 0.85
_FAULT: Final = 0.5
_STRICT: Final = 5
_LEAST: Final = 0.15
_TURNED: Final = 0.1
_SURPLUS: Final = 0.3
_REPEATED: Final = 0.1


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan with what it was made from. ``faults`` counts what was not in order about the answer as a whole."""

    prompt: str
    context: Mapping[str, Any] | None
    actions: Sequence[ActionSpec]
    checked: Checked
    faults: int


def judge(plan: Judged) -> float:
    """Return the confidence in a plan: from 0.01 to 1, in hundredths, and 0 without steps alone."""
    if not plan.checked.kept:
        return 0.0
    found = _MOST * fit(plan) * clarity(plan) * (_FLOOR + (1 - _FLOOR) * margin(plan))
    return max(0.01, round(found, 2))


def fit(plan: Judged) -> float:
    """Return how well the answer holds to what was asked for."""
    kept, dropped = plan.checked.kept, plan.checked.dropped
    share = len(kept) / (len(kept) + len(dropped))
    return float(share * min(completeness(one.profile, one.step.params) for one in kept) * _FAULT**plan.faults)


def clarity(plan: Judged) -> float:
    """Return how little room the prompt leaves for another plan."""
    values = [text for kept in plan.checked.kept for text in texts_of(kept.step.params)]
    outside, quotations = apart(plan.prompt)
    known = _known(plan)
    said = [word in known for text in values for word in words_of(text)]
    members = (name for kept in plan.checked.kept for name in names_of(kept.step.params))
    used_words = {word for text in (*values, *members) for word in words_of(text)}
    wanted = [words_of(name) for name in named(outside, quotations)]
    used = [bool(words) and used_words.issuperset(words) for words in wanted if words]
    factors = [max(_LEAST, _share(said) ** _STRICT), _share(used) ** _STRICT]
    if turned(outside):
        factors.append(_TURNED)
    if len(plan.checked.kept) > max(1, len(parts_of(outside))):
        factors.append(_SURPLUS)
    if _repeats(plan.checked.kept):
        factors.append(_REPEATED)
    return prod(factors)


def _known(plan: Judged) -> set[str]:
    """Return the words that the caller has said, and the method that words of retrieval mean."""
    known = {*words_of(plan.prompt), *(word for text in texts_of(plan.context) for word in words_of(text))}
    return known if known.isdisjoint(RETRIEVALS) else known | {"get"}


def _repeats(kept: Sequence[Kept]) -> bool:
    """Say whether a step is there twice, which hardly anybody asks for."""
    return any(
        (one.step.action, one.step.params) == (other.step.action, other.step.params)
        for place, one in enumerate(kept)
        for other in kept[:place]
    )


def margin(plan: Judged) -> float:
    """Return by how much the weakest step's action leads the best action that the plan does not use."""
    index = index_of(plan.actions)
    places = {spec.name: place for place, spec in enumerate(index.actions)}
    used = {places[kept.step.action] for kept in plan.checked.kept}
    outside, _ = apart(plan.prompt)
    scores = [index.scores(part) for part in (outside, *parts_of(outside))]
    return min(max(_lead(places[kept.step.action], used, found) for found in scores) for kept in plan.checked.kept)


def _lead(place: int, used: set[int], scores: Mapping[int, float]) -> float:
    own = scores.get(place, 0.0)
    rival = max((score for other, score in scores.items() if other not in used), default=0.0)
    return max(0.0, (own - rival) / own) if own else 0.0


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else 1.0
