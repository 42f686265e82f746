"""Which of many actions a text may mean: an index over their words, for offering a model the likeliest."""

import bisect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Final

from relay.catalog import ActionSpec
from relay.planning.synonyms import concepts, stem

_NAME, _CONNECTOR, _SUMMARY, _PARAMETER, _DESCRIPTION = 3.0, 2.0, 1.5, 0.6, 0.3
_NAMED: Final = 1_000.0
_SYNONYM: Final = 0.5
_PREFIX: Final = 0.4
_SHORTEST_PREFIX: Final = 4
_MAX_TEXT: Final = 20_000
_MAX_PARTS: Final = 24
_INDEXES: Final = 8

_ACTION: Final = re.compile(r"[a-z][a-z0-9]*(?:\.[a-z][a-z0-9_]*)+")
_WORD: Final = re.compile(r"[^\W_]+")
_PART: Final = re.compile(r"(?:[.;!?](?:\s|$)|\n|\bthen\b|\band\b|\bafter that\b|,)", re.IGNORECASE)
_SHAPES: Final = (
    (re.compile(r"[\w.+-]@[\w-]"), ("email", "mail")),
    (re.compile(r"https?://", re.IGNORECASE), ("http", "url")),
    (re.compile(r"[{\[]\s*[\"\[{\d]"), ("json",)),
)
_URL: Final = re.compile(r"https?://\S+", re.IGNORECASE)
_STOP: Final = frozenset(
    map(
        stem,
        "a an the this that these those it its to of in on at by for from with and or as is are be was were i you we "
        "they me my your our please can could would will want need like us them his her their so if then have has had "
        "do does did not no what which who when there here some any into about up out over s t".split(),
    )
)


def narrow(text: str, actions: Sequence[ActionSpec], limit: int) -> Sequence[ActionSpec]:
    """Return at most ``limit`` of ``actions``, those that ``text`` is likeliest to mean, in the order of ``actions``.

    All of them where there are no more than that. The text as a whole and each of its parts, sentences and what
    "then", "and" or a comma separates, choose in turn, so that a request for several things finds an action for each.
    What is left of the room goes to the first of the others: a text in another language still meets some actions. The
    same arguments give the same answer. Whatever is named in full is among the actions returned.
    """
    if len(actions) <= limit:
        return actions
    index = index_of(actions)
    chosen: dict[int, None] = {}
    for row in zip_longest(*(index.ranked(part) for part in (text, *parts_of(text)))):
        for place in row:
            if place is not None and len(chosen) < limit:
                chosen.setdefault(place)
        if len(chosen) == limit:
            break
    for place in range(len(actions)):
        if len(chosen) == limit:
            break
        chosen.setdefault(place)
    return [actions[place] for place in sorted(chosen)]


def parts_of(text: str) -> list[str]:
    """Return the parts of a text that may ask for a step each, none for a text of one part."""
    parts = [part for piece in _PART.split(text[:_MAX_TEXT]) if (part := piece.strip())]
    return parts[:_MAX_PARTS] if len(parts) > 1 else []


class Index:
    """The words of some actions, with the weight that each has for each of them."""

    def __init__(self, actions: Sequence[ActionSpec]) -> None:
        self.actions = tuple(actions)
        found: dict[str, list[tuple[int, float]]] = {}
        for place, spec in enumerate(self.actions):
            for word, weight in _terms_of(spec).items():
                found.setdefault(word, []).append((place, weight))
        self._postings = found
        self._names = {spec.name: place for place, spec in enumerate(self.actions)}
        self._vocabulary = sorted(word for word in found if not word.startswith("~"))
        count = len(self.actions)
        # As in BM25 (Robertson and Zaragoza, 2009): a word that many actions have says little.
        self._rarity = {word: math.log(1 + (count - len(has) + 0.5) / (len(has) + 0.5)) for word, has in found.items()}

    def ranked(self, text: str) -> list[int]:
        """Return the places of the actions of which something was said, best first, then in their order."""
        scores = self.scores(text)
        return sorted(scores, key=lambda place: (-scores[place], place))

    def scores(self, text: str) -> dict[int, float]:
        """Return a score above 0 by place for every action of which ``text`` says something."""
        text = text[:_MAX_TEXT]
        scores: dict[int, float] = {}
        for word, share in self._said(text).items():
            worth = share * self._rarity[word]
            for place, weight in self._postings[word]:
                scores[place] = scores.get(place, 0.0) + worth * weight
        for found in _ACTION.finditer(text):
            if (named := self._names.get(found.group())) is not None:
                scores[named] = scores.get(named, 0.0) + _NAMED
        return scores

    def _said(self, text: str) -> dict[str, float]:
        """Return the words of the index that a text says, and how surely: itself, as a synonym, by its beginning."""
        said: dict[str, float] = {}
        for word in _words_of(text):
            found = word in self._postings
            terms = {word: 1.0} if found else dict.fromkeys(self._alike(word), _PREFIX)
            for term, share in {**terms, **dict.fromkeys(concepts().get(word, ()), _SYNONYM)}.items():
                if term in self._postings:
                    said[term] = max(share, said.get(term, 0.0))
        return said

    def _alike(self, word: str) -> Iterator[str]:
        """Yield the words that begin with ``word``, or the longest that it begins with."""
        if len(word) < _SHORTEST_PREFIX:
            return
        at = bisect.bisect_left(self._vocabulary, word)
        for term in self._vocabulary[at : at + 8]:
            if not term.startswith(word):
                break
            yield term
        for length in range(len(word) - 1, _SHORTEST_PREFIX - 1, -1):
            if word[:length] in self._postings:
                yield word[:length]
                return


def index_of(actions: Sequence[ActionSpec]) -> Index:
    """Return the index of these actions; those of the last few catalogues are kept."""
    return _index(_Same(tuple(actions)))


class _Same:
    """Actions compared by being the same objects: their fields are many, and hashing them takes longer than asking."""

    def __init__(self, actions: tuple[ActionSpec, ...]) -> None:
        self.actions = actions
        self._ids = tuple(map(id, actions))

    def __hash__(self) -> int:
        return hash(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._ids == other._ids


@lru_cache(maxsize=_INDEXES)
def _index(same: _Same) -> Index:
    return Index(same.actions)


def _terms_of(spec: ActionSpec) -> Mapping[str, float]:
    """Return the words of an action, each with the weight of the weightiest place that it stands in."""
    connector, _, name = spec.name.partition(".")
    weights: dict[str, float] = {}

    def add(text: str, weight: float) -> None:
        for word in _words_of(text.replace("_", " ")):
            weights[word] = max(weight, weights.get(word, 0.0))
            for concept in concepts().get(word, ()):
                weights[concept] = max(weight, weights.get(concept, 0.0))

    add(name.replace(".", " "), _NAME)
    add(connector, _CONNECTOR)
    add(spec.summary, _SUMMARY)
    for parameter, info in spec.params.model_fields.items():
        add(info.alias or parameter, _PARAMETER)
        add(info.description or "", _DESCRIPTION)
    return weights


def _words_of(text: str) -> Iterator[str]:
    for pattern, words in _SHAPES:
        if pattern.search(text):
            yield from words
    for found in _WORD.finditer(_URL.sub(" ", text)):
        word = stem(found.group())
        if word not in _STOP and not word.isdigit():
            yield word
