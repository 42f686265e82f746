"""Which parts of a Markdown text are code, told only where every reader of Markdown would say the same.

Whether a line is code depends on the list or quotation that it stands in and on what a renderer's extensions make of
the lines before. Where readings differ (a fence whose indentation changes, one in a quotation, one that a formula may
swallow) nothing from there on counts as code: taking text for code would let a link through, taking code for text
only shows it a little differently.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Line = Literal["text", "code", "verbatim", "more"]
"""How a line is read: as text; as code; as the line of a fence itself; ``more``: that cannot be told yet."""

MAX_FENCE_LINE: Final = 120
_MAX_INDENT: Final = 60
_MARGIN: Final = 3
"""How far a fence may be indented and be one, unless it stands in a list (CommonMark 0.31, 4.5)."""

_PREFIX: Final = re.compile(r"[ \t>]{0,60}")
_MARKER: Final = re.compile(r"`{3,}|~{3,}")
_OPENING: Final = re.compile(r"(?P<marker>`{3,}|~{3,}) ?[\w+#-]{0,40}[ \t]*", re.ASCII)
# A formula or a file's head may swallow what looks like a fence inside it.
_SWALLOWS: Final = re.compile(r"\$\$|\\\[")
_HEAD: Final = ("---", "+++")


@dataclass(frozen=True, slots=True)
class _Fence:
    prefix: str
    marker: str
    certain: bool

    def closes(self, rest: str) -> bool:
        run = rest.rstrip(" \t")
        return len(run) >= len(self.marker) and not run.strip(self.marker[0])


class Fences:
    """Reads a text line by line; ``sure`` tells whether a code span on the current line is one to every reader."""

    def __init__(self) -> None:
        self._fence: _Fence | None = None
        self._doubt = False
        self._open = False
        self._first = True

    @property
    def sure(self) -> bool:
        """Whether backticks mean the same to everybody here."""
        return not (self._doubt or self._open or self._fence is not None)

    def unsure(self, *, for_good: bool = False) -> None:
        """Note that backticks may pair differently, up to the next blank line or ``for_good``."""
        self._open = True
        self._doubt = self._doubt or for_good

    def line(self, text: str, at: int, final: bool) -> Line:
        """Tell how the line that begins at ``at`` is read. ``more`` is answered within :data:`MAX_FENCE_LINE`."""
        if self._doubt:
            return "text"
        window = text[at : at + MAX_FENCE_LINE]
        line, broken, _ = window.partition("\n")
        whole = bool(broken) or len(window) == MAX_FENCE_LINE or final
        prefix = _PREFIX.match(line)
        assert prefix is not None
        if not whole and (prefix.end() == len(line) or not _tells(line[prefix.end() :])):
            return "more"
        first, self._first = self._first, False
        complete = bool(broken) or (final and len(window) < MAX_FENCE_LINE)
        if self._fence is not None:
            return self._inside(self._fence, line, prefix.group(), complete)
        return self._outside(line, prefix.group(), complete, first)

    def closing(self) -> str:
        """Return the line that ends a fence that is still open, empty where none is."""
        fence = self._fence
        return fence.prefix + fence.marker if fence is not None and fence.certain and not self._doubt else ""

    def _outside(self, line: str, prefix: str, complete: bool, first: bool) -> Line:
        rest = line[len(prefix) :]
        if not rest and complete and ">" not in prefix:
            self._open = False
        elif _SWALLOWS.match(rest) or (first and line.startswith(_HEAD)):
            self._doubt = True
        elif (marker := _MARKER.match(rest)) and not ("`" in rest[marker.end() :] and rest[0] == "`"):
            opening = _OPENING.fullmatch(rest)
            if opening is None or not complete or "\t" in prefix or len(prefix) >= _MAX_INDENT:
                self._doubt = True
                return "text"
            certain = ">" not in prefix and len(prefix) <= _MARGIN
            self._fence = _Fence(prefix, marker.group(), certain)
            return "verbatim"
        return "text"

    def _inside(self, fence: _Fence, line: str, prefix: str, complete: bool) -> Line:
        rest = line[len(prefix) :]
        if complete and not rest and (fence.certain or prefix.rstrip() == fence.prefix.rstrip()):
            return "verbatim"
        closes = complete and fence.closes(rest)
        if closes and prefix == fence.prefix:
            self._fence = None
            self._open = not fence.certain
            return "verbatim"
        follows = prefix.startswith(fence.prefix) and "\t" not in prefix[: len(fence.prefix)]
        if closes or not follows or (_MARKER.match(rest) and not complete):
            self._fence, self._doubt = None, True
            return "text"
        return "code" if fence.certain else "text"


def _tells(rest: str) -> bool:
    """Tell whether a line's beginning shows already that it is no line of a fence, and begins no formula or head."""
    first = rest[0]
    if first in "`~":
        return len(rest) - len(rest.lstrip(first)) < min(3, len(rest))
    return len(rest) >= _NEEDED.get(first, 1)


_NEEDED: Final = {"$": 2, "\\": 2, "-": 3, "+": 3}
