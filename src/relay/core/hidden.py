"""Characters that nobody sees, or that make a text read differently from what it says.

They carry instructions past a reader to a model (tag characters, variation selectors), turn the order of what is read
(CVE-2021-42574), move a terminal's cursor, or are no characters at all. Where a script needs an invisible character it
is one of that script and stays; a flag of England, Scotland or Wales stays, other sequences of tags do not.
"""

import re
from typing import Final

_ONE: Final = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # C0 and C1 but tab and line breaks
    "\ud800-\udfff"  # halves of surrogate pairs
    "\u115f\u1160\u3164\uffa0"  # Hangul fillers
    "\u17b4\u17b5"  # Khmer vowels that nothing shows
    "\u180b-\u180f"  # Mongolian selectors and vowel separator
    "\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides, isolates
    "\u2060-\u2065\u206a-\u206f"  # word joiner, invisible operators, deprecated formatting
    "\ufeff\ufff0-\ufffb"  # byte order mark; interlinear annotation and the unassigned before it
    "\ufdd0-\ufdef" + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)) +
    # Noncharacters, above; tags and the supplementary variation selectors, and what is reserved beside them.
    "\U000e0000-\U000e0fff"
)  # fmt: skip

# Each of these has its use (hyphenation, joining, direction marks, emoji); many in a row can only hide a message.
_INVISIBLE: Final = "\u00ad\u034f\u061c\u200b-\u200f\ufe00-\ufe0f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
_RUN: Final = 5

_TAGGED: Final = "|".join(
    "".join(chr(0xE0000 + ord(letter)) for letter in region) for region in ("gbeng", "gbsct", "gbwls")
)
_BLACK_FLAG: Final = "\U0001f3f4"
_IDEOGRAPH: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_MONGOLIAN: Final = "\u1820-\u1878\u1880-\u18aa"
_CHOSEONG: Final = "\u1100-\u115e\ua960-\ua97c"
_JUNGSEONG: Final = "\u1161-\u11a7\ud7b0-\ud7c6"
_JONGSEONG: Final = "\u11a8-\u11ff\ud7cb-\ud7fb"

# What stands first wins: an invisible character in its place is part of the sequence that needs it.
_SEQUENCES: Final = re.compile(
    f"{_BLACK_FLAG}(?:{_TAGGED})\U000e007f"
    f"|[{_IDEOGRAPH}][\U000e0100-\U000e01ef]"
    f"|[{_MONGOLIAN}](?:[\u180b-\u180d\u180f]\u180e?|\u180e)"
    f"|\u115f(?:\u1160[{_JONGSEONG}]|[{_JUNGSEONG}])"
    f"|[{_CHOSEONG}]\u1160[{_JONGSEONG}]"
    f"|(?P<hidden>[{_INVISIBLE}]{{{_RUN},}}|[\ufe00-\ufe0f]{{2,}}|[{_ONE}])"
)
_INVISIBLES: Final = "".join(chr(code) for code in range(0x1D200) if re.match(f"[{_INVISIBLE}]", chr(code)))
_BEGUN: Final = re.compile(
    f"(?:{_BLACK_FLAG}[\U000e0000-\U000e007f]{{0,6}}|[{_IDEOGRAPH}]|[{_MONGOLIAN}][\u180b-\u180d\u180f]?"
    f"|\u115f\u1160?|[{_CHOSEONG}]\u1160?|\r)\\Z"
)
_LONGEST: Final = 8  # of what _BEGUN matches

_KINDS: Final = (
    ("a control character", re.compile("[\x00-\x1f\x7f-\x9f]")),
    ("half of a surrogate pair", re.compile("[\ud800-\udfff]")),
    ("a character that turns the direction of reading", re.compile("[\u202a-\u202e\u2066-\u2069]")),
    ("a tag character", re.compile("[\U000e0000-\U000e007f]")),
    ("a variation selector that varies nothing", re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")),
    ("no character", re.compile("[\ufdd0-\ufdef\ufffe\uffff]")),
)


def hidden_in(text: str) -> re.Match[str] | None:
    """Return where ``text`` holds the first such character, or run of them; None where it holds none."""
    if text.isascii() and text.isprintable():
        return None
    return next((found for found in _SEQUENCES.finditer(text) if found["hidden"] is not None), None)


def kind_of(character: str) -> str:
    """Return what a character that :func:`hidden_in` has found is, in words."""
    if ord(character) & 0xFFFE == 0xFFFE:
        return "no character"
    return next((name for name, those in _KINDS if those.match(character)), "an invisible character")


def code_point(character: str) -> str:
    """Return the name of a character as ``U+202E``."""
    return f"U+{ord(character):04X}"


def visible(text: str) -> str:
    """Return ``text`` with every such character shown, ``⟦U+202E⟧``, and with ``\\n`` for every line break.

    Total: it never raises. Idempotent, in time linear in the text, and at most ten times as long.
    """
    if text.isascii() and text.isprintable():
        return text
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SEQUENCES.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    return _marked(found.group()) if found["hidden"] is not None else found.group()


def _marked(characters: str) -> str:
    return "".join(f"⟦{code_point(character)}⟧" for character in characters)


class Visible:
    """:func:`visible` over a text that comes in pieces, wherever it is cut; a few characters are held back at most."""

    def __init__(self) -> None:
        self._held = ""
        self._in_run = False

    def feed(self, piece: str) -> str:
        """Take a piece and return what is decided of the text so far."""
        text = self._held + piece
        begun = self._rest_of_run(text)
        cut = len(text) if self._in_run else self._decided(text, begun)
        shown = _marked(text[:begun]) + visible(text[begun:cut])
        self._held = text[cut:]
        return shown

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held, self._in_run = self._held, "", False
        return visible(held)

    def _rest_of_run(self, text: str) -> int:
        """Return how much of the beginning belongs to a run that has been told already."""
        begun = len(text) - len(text.lstrip(_INVISIBLES)) if self._in_run else 0
        self._in_run = self._in_run and begun == len(text)
        return begun

    def _decided(self, text: str, begun: int) -> int:
        run = len(text) - max(begun, len(text.rstrip(_INVISIBLES)))
        if run >= _RUN:
            self._in_run = True
            return len(text)
        if run:
            return len(text) - run
        started = _BEGUN.search(text, max(begun, len(text) - _LONGEST))
        return started.start() if started else len(text)
