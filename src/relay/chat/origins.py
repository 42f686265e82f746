"""Where every value that entered a session came from, and what that says of the parameters of a call.

Nothing here is stored: an index is made of a session's entries, whenever one is needed, in whichever process that is.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from relay.chat.matching import SHORTEST, Believed, Effort, Suspected, is_short, skeleton, written
from relay.chat.views import Origin, Source
from relay.core.origins import Origins
from relay.core.pointer import pointer_of

KEPT_CHARACTERS: Final = 512 * 1024
"""How much is kept of what the caller said, of declared context, and of trusted results, each."""
KEPT_UNTRUSTED_CHARACTERS: Final = 2 * 1024 * 1024
KEPT_FIELDS: Final = 20_000
"""How many texts and fields are kept of each of them."""
TRACED_VALUES: Final = 512
"""How many values of one call are traced; what is beyond counts as unknown."""
EFFORT: Final = 128 * 1024 * 1024
"""How many characters are looked through for one call."""

_MOST: Final = 3
_LONGEST_TAKEN_APART: Final = 64 * 1024
_PIECES: Final = 128
_ATOM: Final = re.compile(r"[^\s<>\"'()\[\]{}|`,;]+")
_PART: Final = re.compile(r"[^/?&=#:@]+")
_MARKS: Final = re.compile(r"[\d@./_:=#%-]")
_LABELS: Final[dict[Source, str]] = {
    "user": "user",
    "context": "context",
    "result": "result",
    "untrusted_result": "untrusted",
    "attachment": "attachment",
    "model": "model",
}
_OUTSIDE: Final = Origin("untrusted_result")
_MODEL: Final = Origin("model")


@dataclass(frozen=True, slots=True)
class Traced:
    """Where the parameters of a call came from.

    ``pointers`` says it of each value (RFC 6901), ``origins`` of each top-level parameter, for policy: a parameter is
    in a set where one of its values has an origin of that kind. ``untrusted`` says that the session holds content from
    outside, whatever the parameters are.
    """

    pointers: dict[str, list[Origin]]
    origins: Origins
    untrusted: bool


@dataclass(slots=True)
class _Room:
    """How much may still be kept of a kind of source."""

    characters: int
    fields: int = KEPT_FIELDS

    def take(self, size: int) -> bool:
        if size > self.characters or self.fields < 1:
            return False
        self.characters -= size
        self.fields -= 1
        return True


@dataclass(slots=True)
class _Kept:
    """Texts that something may come from, and where each of them stands."""

    source: Source
    texts: Believed = field(default_factory=Believed)
    places: list[Origin] = field(default_factory=list)
    room: _Room = field(default_factory=lambda: _Room(KEPT_CHARACTERS))

    def add(self, text: str, place: Origin) -> bool:
        if not self.room.take(len(text)):
            return False
        self.texts.add(text)
        self.places.append(place)
        return True


class SourceIndex:
    """What a session holds, by where it came from. The order in which things are added does not matter.

    A value comes from the caller, declared context or a trusted result where all of it stands in one text of theirs,
    set off from what is around it: as it was written, or in another case or compatibility form where that does not
    make it another thing (it does in ids, tokens and URLs). It comes from an untrusted result as soon as it can be
    found in one, whatever else it stands in: without regard to case, accents, spaces and invisible characters, and
    within words. What stands in untrusted results alone has besides every source that pieces of it stand in.

    Anything else is the model's, with the sources of its pieces too. Where the session holds content from outside,
    what is the model's may have been decoded, translated or put together from it, which nobody can follow; so it counts
    as untrusted too (an origin without attempt), and as an attachment's where there is one. The same goes for what is
    shorter than :data:`~relay.chat.matching.SHORTEST` characters or as common as ``true``: it is nobody's word for
    certain.

    Memory and time are bounded by the constants of this module. When something was not kept, or there is too much to
    look through, what is unknown counts as untrusted; when some of an untrusted result was not kept, everything does.
    """

    def __init__(self, *, untrusted: bool = False) -> None:
        """``untrusted``: the session is known to hold content from outside, whether or not it is added here."""
        self._user, self._context, self._result = _Kept("user"), _Kept("context"), _Kept("result")
        self._outside, self._outside_places = Suspected(), list[Origin]()
        self._outside_room = _Room(KEPT_UNTRUSTED_CHARACTERS)
        self._given: dict[str, str] = {}
        self._attachments: list[Origin] = []
        self._untrusted = untrusted
        self._incomplete = False
        self._outside_lost = False

    @property
    def untrusted(self) -> bool:
        """Whether the session holds content from outside: an untrusted result, or an attachment."""
        return self._untrusted

    @property
    def kept(self) -> int:
        """How many characters are kept, by and large."""
        rooms = (self._user.room, self._context.room, self._result.room)
        trusted = sum(KEPT_CHARACTERS - room.characters for room in rooms)
        return trusted + KEPT_UNTRUSTED_CHARACTERS - self._outside_room.characters

    def add_outside(self) -> None:
        """Note that the session holds content from outside, whether or not it is added here."""
        self._untrusted = True

    def add_user(self, seq: int, text: str) -> None:
        """Add what the caller said in the entry ``seq``."""
        self._keep(self._user, text, Origin("user", message=seq))

    def add_context(self, pointer: str, value: Any, *, seq: int | None = None) -> None:
        """Add data that the caller declared as such; ``pointer`` says where it stood, ``seq`` in which entry."""
        for path, text in _texts(value):
            self._keep(self._context, text, Origin("context", pointer=pointer + pointer_of(path), message=seq))

    def add_edited(self, seq: int, before: Any, after: Any) -> None:
        """Add what the caller has changed in the parameters of a call: from then on it is the caller's own word."""
        for _, value in changed(before, after):
            for text in written(value):
                self._keep(self._user, text, Origin("user", message=seq))

    def add_attachment(self, seq: int) -> None:
        """Add a file that came with the entry ``seq``. What stands in it cannot be read here, so it may be anything."""
        self._attachments.append(Origin("attachment", message=seq))
        self._untrusted = True

    def add_result(self, attempt_id: str, value: Any, *, untrusted: bool, params: Any) -> None:
        """Add what a call has led to: the result, or of one that failed what is told of it.

        ``params`` are those that the call was made with: what a trusted result repeats of them does not come from it.
        """
        if untrusted:
            self._untrusted = True
            for path, text in _texts(value, names=True):
                place = Origin("untrusted_result", attempt_id, pointer_of(path))
                if self._outside_room.take(len(text)):
                    self._outside.add(text)
                    self._outside_places.append(place)
                else:
                    self.incomplete(outside=True)
            return
        given = "\n".join(skeleton(text) for _, text in _texts(params, names=True))
        if not self._result.room.take(len(given)):
            self.incomplete()
            return
        self._given[attempt_id] = self._given.get(attempt_id, "") + "\n" + given
        for path, text in _texts(value):
            self._keep(self._result, text, Origin("result", attempt_id, pointer_of(path)))

    def incomplete(self, *, outside: bool = False) -> None:
        """Note that something which entered the session is not known here: what is unknown counts as untrusted.

        ``outside``: it may have been content from outside, if the session holds any; then every value may stand in it.
        """
        self._incomplete = True
        self._outside_lost = self._outside_lost or outside

    def of(
        self,
        arguments: dict[str, Any],
        *,
        declared: Collection[str] = (),
        edited: Mapping[str, int] | None = None,
    ) -> Traced:
        """Return where the arguments of a call came from, names of members included.

        ``declared`` are names that the action itself gives to members, which nobody has chosen. ``edited`` are the
        pointers of values that the caller has put there, each with the entry in which: they are the caller's own, and
        untrusted only where they, or pieces of them, stand in an untrusted result. Takes processor time in proportion
        to what is kept and traced, at most a second: call it in a thread for a large session.
        """
        tracing = _Tracing(self, declared, edited or {})
        for name, value in arguments.items():
            tracing.trace(name, value)
        return tracing.traced()

    def _keep(self, kept: _Kept, text: str, place: Origin) -> None:
        if not kept.add(text, place):
            self.incomplete()

    def _lost(self) -> list[Origin]:
        """Return where any value may stand besides where it was found."""
        return [_OUTSIDE] if self._outside_lost and self._untrusted else []

    def _doubt(self) -> list[Origin]:
        """Return where a value may have come from that is not known to come from elsewhere."""
        if not (self._untrusted or self._incomplete):
            return []
        return [_OUTSIDE, *self._attachments[:_MOST]]

    def _believed(self, text: str, effort: Effort) -> list[Origin]:
        """Return the trusted places in which a text stands."""
        found = [kept.places[n] for kept in (self._user, self._context) for n in kept.texts.found(text, _MOST, effort)]
        stands = [self._result.places[n] for n in self._result.texts.found(text, _MOST, effort)]
        if stands:
            plain = skeleton(text)
            found += [place for place in stands if plain not in self._given.get(place.attempt_id or "", "")]
        return found

    def _suspected(self, text: str, effort: Effort, *, set_off: bool = False) -> list[Origin]:
        """Return the places in untrusted results where a text may stand; one without attempt where that is unknown."""
        numbers = self._outside.found(text, _MOST, effort, set_off=set_off)
        if numbers is None:
            return [_OUTSIDE]
        return [self._outside_places[number] for number in numbers]


class _Tracing:
    """The tracing of one call."""

    def __init__(self, index: SourceIndex, declared: Collection[str], edited: Mapping[str, int]) -> None:
        self._index = index
        self._declared = frozenset(declared)
        self._effort = Effort(EFFORT)
        self._known: dict[tuple[str, ...], list[Origin]] = {}
        self._pointers: dict[str, list[Origin]] = {}
        self._labels: dict[str, set[str]] = {label: set() for label in _LABELS.values()}
        self._pieces = _PIECES
        self._edited = edited

    def traced(self) -> Traced:
        return Traced(self._pointers, Origins.of(self._labels), self._index.untrusted)

    def trace(self, name: str, value: Any) -> None:
        """Trace a top-level parameter."""
        for path, member in _leaves(value, (name,)):
            if len(self._pointers) >= TRACED_VALUES:
                self._note(name, (name,), [_MODEL, _OUTSIDE])
                return
            if isinstance(member, _Name):
                if member.text not in self._declared:
                    self._note(name, path, self._of(member.text))
            elif (seq := self._edited.get(pointer_of(path))) is not None:
                self._note(name, path, self._of_edited(member, seq))
            else:
                self._note(name, path, self._of(member))

    def _note(self, name: str, path: tuple[str | int, ...], found: list[Origin]) -> None:
        for origin in found:
            self._labels[_LABELS[origin.source]].add(name)
        place = pointer_of(path)
        self._pointers[place] = self._sorted([*self._pointers.get(place, []), *found])

    def _of(self, value: Any) -> list[Origin]:
        texts = written(value)
        if not texts or len(texts[0]) > KEPT_UNTRUSTED_CHARACTERS:
            return self._sorted([_MODEL, *self._index._doubt()])
        if texts not in self._known:
            self._known[texts] = self._sorted(self._found(texts))
        return self._known[texts]

    def _of_edited(self, value: Any, seq: int) -> list[Origin]:
        """Return the same for what the caller has put there: a draft was edited, so that pieces of it may be left."""
        texts = written(value)
        if texts and len(texts[0]) > KEPT_UNTRUSTED_CHARACTERS:
            return self._sorted([Origin("user", message=seq), *self._index._doubt()])
        stands = [place for text in texts for place in self._outside(text)]
        pieces = [place for text in texts[:1] for place in self._of_pieces(text) if place.source == "untrusted_result"]
        return self._sorted([Origin("user", message=seq), *stands, *pieces, *self._index._lost()])

    def _found(self, texts: tuple[str, ...]) -> list[Origin]:
        index = self._index
        believed = [place for text in texts for place in index._believed(text, self._effort)]
        outside = [place for text in texts for place in self._outside(text)]
        known = not is_short(texts[0])
        if believed and known:
            return [*believed, *outside, *index._lost()]
        pieces = self._of_pieces(texts[0]) if not believed else []
        stands = outside and known and any(index._suspected(text, self._effort, set_off=True) for text in texts)
        if self._effort.left < 0:
            return [*believed, *outside, *pieces, _MODEL, *index._doubt(), _OUTSIDE]
        return [*outside, *pieces] if stands else [*believed, *outside, *pieces, _MODEL, *index._doubt()]

    def _outside(self, text: str) -> list[Origin]:
        # What is short is in doubt anyway; to look for it would find it everywhere.
        return self._index._suspected(text, self._effort) if len(skeleton(text)) >= SHORTEST else []

    def _of_pieces(self, text: str) -> list[Origin]:
        found: list[Origin] = []
        for piece in _pieces(text[:_LONGEST_TAKEN_APART]):
            if self._pieces < 1:
                break
            self._pieces -= 1
            found += self._index._believed(piece, self._effort)
            found += self._index._suspected(piece, self._effort, set_off=True)
        return found

    @staticmethod
    def _sorted(found: list[Origin]) -> list[Origin]:
        """Return each origin once, by kind, not too many of one; one without place only where none has a place."""
        order, counts = list(_LABELS), dict.fromkeys(_LABELS, 0)
        unique = sorted(dict.fromkeys(found), key=lambda origin: (order.index(origin.source), origin == _OUTSIDE))
        chosen = []
        for origin in unique:
            if counts[origin.source] < (1 if origin == _OUTSIDE else _MOST):
                counts[origin.source] += 1
                chosen.append(origin)
        return chosen


@dataclass(frozen=True, slots=True)
class _Name:
    """The name of a member, which somebody has chosen like any value."""

    text: str


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield every value that is no container or an empty one, and the name of every member, with their paths."""
    waiting = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict) and value:
            for name in value:
                yield (*path, name), _Name(name)
            waiting += [((*path, name), member) for name, member in reversed(value.items())]
        elif isinstance(value, (list, tuple)) and value:
            waiting += [((*path, number), member) for number, member in reversed(list(enumerate(value)))]
        else:
            yield path, value


def _texts(value: Any, *, names: bool = False) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is written in a value, with its path; with ``names`` the names of members below the first level."""
    for path, member in _leaves(value):
        if isinstance(member, _Name):
            if names and len(path) > 1:
                yield path, member.text
        elif texts := written(member):
            yield path, texts[0]


def changed(before: Any, after: Any) -> list[tuple[tuple[str | int, ...], Any]]:
    """Return the values of ``after`` that stand nowhere in ``before``, with their paths.

    What has only moved is nobody's new word: to take the first address out of a list moves all others.
    """
    old = {repr(value) for _, value in _leaves(before) if not isinstance(value, _Name)}
    return [(path, value) for path, value in _leaves(after) if not isinstance(value, _Name) and repr(value) not in old]


def _pieces(text: str) -> Iterator[str]:
    """Yield what a text may have been put together from: its addresses, hosts and ids, their parts, runs of words."""
    atoms = [atom.strip(".:!?*") for atom in dict.fromkeys(_ATOM.findall(text))]
    for atom in atoms:
        if _MARKS.search(atom) and len(atom) >= SHORTEST:
            yield atom
            parts = _PART.findall(atom)
            yield from (part for part in parts if len(part) >= SHORTEST and part != atom)
    words = text.split()
    if len(words) <= _FEW_WORDS:
        yield from (atom for atom in atoms if len(atom) >= SHORTEST and not _MARKS.search(atom))
    for place in range(0, len(words) - _FEW_WORDS + 1):
        yield " ".join(words[place : place + _FEW_WORDS])


_FEW_WORDS: Final = 3
