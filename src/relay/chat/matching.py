"""Whether one text stands in another, asked in two ways: strictly, to believe it, and generously, to suspect it."""

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, Final

SHORTEST: Final = 4
"""Characters; what is shorter stands anywhere by accident."""

_CANDIDATES: Final = 256
_TAIL: Final = 64
_GLUE: Final = frozenset(".-+@%'’~\\_。‐")
_GLUE_AFTER: Final = _GLUE | {":"}
# What the local part of an address may hold besides (RFC 5322, 3.2.3).
_GLUE_OF_ADDRESS: Final = _GLUE | frozenset("!#$&*/=?^`{|}")
_MOST_WORDS: Final = 64
_COMMON: Final = frozenset({"true", "false", "null", "none", "auto"})
_NAMED_PLACE: Final = re.compile(
    r"(?:[^\s@/:]{1,64}@)?(?:[\w-]{1,63}\.){1,16}(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{1,59})", re.IGNORECASE
)
_REST_OF_URL: Final = re.compile(r"[^\s<>\"'()\[\]{}|`«»“”]*")
_SENTENCE_END: Final = ".,;:!?*_~"
_AROUND: Final = _SENTENCE_END + "()[]{}<>\"'"
_URL_MARK: Final = "://"
# With an empty path, the slash changes nothing (RFC 3986, 6.2.3).
_BARE_URL: Final = re.compile(r"https?://[^/?#\s]+/")


class _Kept(dict[int, str | None]):
    """What :func:`skeleton` makes of each character, found out once."""

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        category = unicodedata.category(char)
        # Fillers are letters by category and nothing to the eye.
        unseen = category in ("Mn", "Me", "Cf", "Cc") or unicodedata.combining(char) or code in (0x115F, 0x1160)
        self[code] = None if unseen and not char.isspace() else char
        return self[code]


_KEPT: Final = _Kept()


def skeleton(text: str) -> str:
    """Return a text as the suspicious compare it: without case, accents, invisible characters and runs of spaces.

    Whatever is cut out of a text, at any place, has a skeleton that stands in the text's skeleton.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return _spaced(text.casefold().translate(_KEPT))


def exact(text: str) -> str:
    """Return a text in normal form C with single spaces: as somebody wrote it."""
    return _spaced(text if text.isascii() else unicodedata.normalize("NFC", text))


def folded(text: str) -> str:
    """Return a text in lower case without compatibility forms, with single spaces.

    Lower case and no more: case folding makes ``strasse.de`` of ``straße.de``, which is another's (RFC 5894, 7.2).
    """
    if text.isascii():
        return _spaced(text.lower())
    return _spaced(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def is_short(text: str) -> bool:
    """Say whether a value is so short or so common that it may stand in a text without being meant."""
    return len(skeleton(text)) < SHORTEST or text.strip().lower() in _COMMON


def case_matters(word: str) -> bool:
    """Say whether another case makes it another thing: in ids, tokens and URLs, not in words, addresses and hosts."""
    return not (word.lower() == word.upper() or word.isalpha() or _NAMED_PLACE.fullmatch(word))


def written(value: Any) -> tuple[str, ...]:
    """Return the ways to write a value as text, none for what has no words of its own (``true``, null, nothing)."""
    if isinstance(value, str):
        if _BARE_URL.fullmatch(value):
            return (value, value[:-1])
        return (value,) if value.strip() else ()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return ()
    if isinstance(value, float) and not value.is_integer():
        return tuple(dict.fromkeys((repr(value), f"{value:.2f}"))) if round(value, 2) == value else (repr(value),)
    whole = int(value)
    return tuple(dict.fromkeys((str(whole), f"{whole:,}", f"{whole}.0", f"{whole}.00")))


@dataclass(slots=True)
class Effort:
    """How many characters may still be looked through; once none are left, nothing is looked for any more."""

    left: int

    def take(self, size: int) -> bool:
        """Take the price of one look, and say whether there was enough."""
        self.left -= size + 1
        return self.left >= 0


@dataclass(slots=True)
class _Places:
    """Texts one after another, each on a line of its own, none of which holds a line feed."""

    lines: list[str] = field(default_factory=list)
    _whole: str | None = None
    _starts: list[int] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._whole = None

    @property
    def whole(self) -> str:
        if self._whole is None:
            self._whole, at = "\n".join(self.lines), 0
            self._starts = []
            for line in self.lines:
                self._starts.append(at)
                at += len(line) + 1
        return self._whole

    def found(self, wanted: str, most: int, *, set_off: bool) -> list[int]:
        """Return the numbers of the first lines that hold ``wanted``, ``set_off`` from what stands around it."""
        whole, numbers, at, tried = self.whole, list[int](), 0, 0
        while len(numbers) < most and tried < _CANDIDATES:
            at = whole.find(wanted, at)
            if at < 0:
                break
            tried += 1
            if set_off and not is_set_off(whole, at, at + len(wanted)):
                at += 1
                continue
            number = bisect_right(self._starts, at) - 1
            numbers.append(number)
            at = self._starts[number] + len(self.lines[number])
        return numbers


class Believed:
    """Texts of a source that something may be said to come from: it has to stand there as it is, and by itself."""

    def __init__(self) -> None:
        self._exact, self._folded = _Places(), _Places()

    def __len__(self) -> int:
        return len(self._exact.lines)

    def add(self, text: str) -> None:
        """Add a text; the first has the number 0."""
        self._exact.add(exact(text))
        self._folded.add(folded(text))

    def found(self, value: str, most: int, effort: Effort) -> list[int]:
        """Return the numbers of the first texts in which a value stands, set off from what is around it.

        As it was written, or in another case and form where that does not make it another thing. A value that itself
        has compatibility forms (a full-width letter) has to stand there exactly.
        """
        wanted = exact(value)
        if not wanted or not effort.take(len(self._exact.whole)):
            return []
        numbers = self._exact.found(wanted, most, set_off=True)
        if numbers or unicodedata.normalize("NFKC", wanted) != wanted or not self._may_fold(wanted, effort):
            return numbers
        return self._folded.found(folded(value), most, set_off=True) if effort.take(len(self._folded.whole)) else []

    def _may_fold(self, wanted: str, effort: Effort) -> bool:
        """Say whether another case makes no other text of it: every id, token and URL in it stands here as it is."""
        words = (word.strip(_AROUND) for word in wanted.split(" "))
        exacting = [word for word in words if case_matters(word)]
        if exacting == [wanted] or len(exacting) > _MOST_WORDS:
            return False
        return all(
            effort.take(len(self._exact.whole)) and self._exact.found(word, 1, set_off=True) for word in exacting
        )


class Suspected:
    """Texts of a source that nothing may be taken from unseen: it is enough that it could stand there."""

    def __init__(self) -> None:
        self._places = _Places()

    def __len__(self) -> int:
        return len(self._places.lines)

    def add(self, text: str) -> None:
        """Add a text; the first has the number 0."""
        self._places.add(skeleton(text))

    def found(self, value: str, most: int, effort: Effort, *, set_off: bool = False) -> list[int] | None:
        """Return the numbers of the first texts that hold a value; None where there was no effort left to look."""
        wanted = skeleton(value)
        if not wanted:
            return []
        if not effort.take(len(self._places.whole)):
            return None
        return self._places.found(wanted, most, set_off=set_off)


def is_set_off(text: str, start: int, end: int) -> bool:
    """Say whether ``text[start:end]`` stands by itself: no word, number, host or address goes on on either side.

    A value that is a URL has to be all of the URL that stands there.
    """
    glue = _GLUE if text.find("@", start, end) < 0 else _GLUE_OF_ADDRESS
    return (
        _begins(text, start, glue)
        and (text.find(_URL_MARK, start, end) < 0 or _ends_as_url(text, end))
        and _ends(text, end)
    )


def _begins(text: str, start: int, glue: frozenset[str]) -> bool:
    first, at = text[start], start - 1
    if first.isdigit() and at >= 0 and text[at] in "+-.,":
        return False
    while at >= 0 and _plain(text[at]) in glue:
        at -= 1
    return at < 0 or not _goes_on(text[at], first)


def _ends(text: str, end: int) -> bool:
    last, at = text[end - 1], end
    if last.isdigit() and text[at : at + 1] == "," and text[at + 1 : at + 2].isdigit():
        return False
    while at < len(text) and _plain(text[at]) in _GLUE_AFTER:
        at += 1
    return at >= len(text) or not _goes_on(text[at], last)


def _plain(char: str) -> str:
    """Return a mark as hosts and addresses are read: a full-width dot is a dot."""
    return char if char.isascii() else unicodedata.normalize("NFKC", char)


def _goes_on(char: str, edge: str) -> bool:
    """Say whether ``char`` may belong to what has ``edge`` at its end.

    A script without spaces and cases does not go on from ASCII: an address amid Chinese text ends with its domain.
    """
    if char.isascii():
        return char.isalnum() or char == "_"
    category = unicodedata.category(char)
    if category == "Lo" and edge.isascii():
        return False
    return char.isalnum() or category[0] == "M" or category == "Cf"


def _ends_as_url(text: str, end: int) -> bool:
    rest = _REST_OF_URL.match(text, end, end + _TAIL)
    return rest is None or not rest[0].strip(_SENTENCE_END)
