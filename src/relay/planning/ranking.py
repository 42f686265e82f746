"""Which actions a clause may mean: a lexical score over names, parameters and summaries."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.planning.profile import Profile
from relay.planning.reading import Token
from relay.planning.segmenting import Clause, word_of
from relay.planning.words import concept

# A score below this means that no part of the action's name was said.
_ELIGIBLE: Final = 3.0
# Actions whose score comes this close to the best one's are as plausible.
_NEAR: Final = 0.8
_ANNOUNCERS: Final = frozenset({"about", "regarding", "saying", "say", "says", "subject", "titled", "reading"})
_SHAPES: Final = {"address": ("email",), "contact": ("email",), "url": ("http", "url"), "json": ("json",)}


@dataclass(frozen=True, slots=True)
class Ranked:
    """An action with its score for one clause."""

    profile: Profile
    score: float


def rank(clause: Clause, profiles: Iterable[Profile]) -> list[Ranked]:
    """Return the actions whose name the clause mentions, best first (then by name).

    The score adds, once per concept that the clause mentions: 3 for a concept of the action's name, 2 for an
    HTTP method that it takes, 1 for a parameter's name, 1 for a word of its summary. An address counts as the
    word "email", a URL as "http" and "url", JSON as "json". Quoted text and unquoted free text count for nothing.
    """
    said = _concepts(clause.tokens)
    ranked = [
        Ranked(profile, sum(profile.weights.get(word, 0.0) for word in said))
        for profile in profiles
        if not said.isdisjoint(profile.name_concepts)
    ]
    return sorted(
        (entry for entry in ranked if entry.score >= _ELIGIBLE),
        key=lambda entry: (-entry.score, entry.profile.spec.name),
    )


def near(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Return the best action and those that are as plausible."""
    return [entry for entry in ranked if entry.score >= _NEAR * ranked[0].score]


def margin(chosen: Ranked, ranked: Sequence[Ranked]) -> float:
    """Return how far ``chosen`` leads the best other action: 1 without a rival, 0 when level or behind."""
    rival = max((entry.score for entry in ranked if entry is not chosen), default=0.0)
    return max(0.0, (chosen.score - rival) / chosen.score)


def _concepts(tokens: Sequence[Token]) -> frozenset[str]:
    said: set[str] = set()
    for at, token in enumerate(tokens):
        said.update(_SHAPES.get(token.kind, ()))
        if token.kind != "word":
            continue
        if word_of(token) in _ANNOUNCERS and not _before_quote(tokens, at + 1):
            break
        # The method keeps its own word beside the concept that it may belong to ("get" is also a request).
        said.update((word_of(token), concept(token.text)))
    return frozenset(said)


def _before_quote(tokens: Sequence[Token], at: int) -> bool:
    while at < len(tokens) and tokens[at].is_mark(":="):
        at += 1
    return at < len(tokens) and tokens[at].kind == "quote"
