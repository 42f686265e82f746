"""Policy text before Cedar reads it: its single policies with their places, and bounds on how deeply they nest.

Cedar's parser and its validator recurse. On a text that nests deeply enough the one overflows the stack, which ends the
process, and the other gives up and says that all is well. So no text reaches them that has not been bounded here, by
the same tokens that Cedar reads.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

MAX_BYTES: Final = 128 * 1024
MAX_POLICIES: Final = 500
MAX_NESTING: Final = 12
MAX_OPERATORS: Final = 60

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+|//[^\r\n]*)
      | (?P<string>"(?:\\[^\r\n]|[^"\\])*")
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9]+)
      | (?P<slot>\?[a-z]*)
      | (?P<operator>&&|\|\||==|!=|<=|>=|::|[!<>+\-*.])
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | (?P<mark>[;,:@=])""",
    re.VERBOSE,
)
_NESTING_WORDS: Final = frozenset({"if", "like", "has", "in", "is"})
_INDEXED: Final = frozenset({"word", "close", "string"})
# Format characters, bidirectional ones among them, make a text read differently from what it says.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"})


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a policy text, and where: lines and columns count from 1, columns in characters."""

    line: int
    column: int
    reason: str


class PolicyRefused(ValueError):
    """A policy text that cannot be used. ``problems`` has at least one entry, in the order of the text."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"line {found.line}, column {found.column}: {found.reason}" for found in problems))


@dataclass(frozen=True, slots=True)
class Fragment:
    """One policy of a text: its own text, without what stands before and after it, and where that begins."""

    text: str
    start: int


class Places:
    """Lines and columns of a text."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(found.end() for found in re.finditer(r"\r\n|\r|\n", text))]

    def problem(self, offset: int, reason: str) -> Problem:
        """Return the problem at an offset of the text."""
        line = self.line(offset)
        return Problem(line, offset - self._starts[line - 1] + 1, reason)

    def named(self, offset: int) -> str:
        """Return a place as text, for people."""
        line = self.line(offset)
        column = offset - self._starts[line - 1] + 1
        return f"line {line}" if column == 1 else f"line {line}, column {column}"

    def line(self, offset: int) -> int:
        """Return the line that an offset lies in, from 1."""
        low, high = 0, len(self._starts)
        while high - low > 1:
            middle = (low + high) // 2
            if self._starts[middle] <= offset:
                low = middle
            else:
                high = middle
        return low + 1


def fragments(text: str) -> list[Fragment]:
    """Return the policies of a text; :class:`PolicyRefused` for one that is too large, nests too deeply or has slots.

    Every fragment ends with its semicolon, but for a last one that lacks it. Whether it is a policy is Cedar's to say.
    """
    places = Places(text)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PolicyRefused([Problem(1, 1, "the text is not Unicode: it holds lone surrogates")]) from None
    if size > MAX_BYTES:
        raise PolicyRefused([Problem(1, 1, f"the text is longer than {MAX_BYTES // 1024} KiB")])
    _require_visible(text, places)
    found = list(_fragments(text, places))
    if len(found) > MAX_POLICIES:
        raise PolicyRefused([places.problem(found[MAX_POLICIES].start, f"there are more than {MAX_POLICIES} policies")])
    return found


def _require_visible(text: str, places: Places) -> None:
    for offset, char in enumerate(text):
        if char not in "\t\r\n" and unicodedata.category(char) in _INVISIBLE:
            raise PolicyRefused([places.problem(offset, f"an invisible character (U+{ord(char):04X})")])


def _fragments(text: str, places: Places) -> Iterator[Fragment]:
    start: int | None = None
    bounds = _Bounds(places)
    end = 0
    for kind, found, offset in _tokens(text, places):
        if kind == "space":
            continue
        start = offset if start is None else start
        end = offset + len(found)
        bounds.take(kind, found, offset)
        if found == ";":
            yield Fragment(text[start:end], start)
            start, bounds = None, _Bounds(places)
    if start is not None:
        yield Fragment(text[start:end], start)


def _tokens(text: str, places: Places) -> Iterator[tuple[str, str, int]]:
    offset = 0
    while offset < len(text):
        found = _TOKEN.match(text, offset)
        if found is None:
            what = "a string that does not end" if text[offset] == '"' else f"an unexpected {text[offset]!r}"
            raise PolicyRefused([places.problem(offset, what)])
        assert found.lastgroup is not None
        yield found.lastgroup, found.group(), offset
        offset = found.end()


class _Bounds:
    """How deeply one policy nests: brackets within brackets, and operators within one clause."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._operators = 0
        self._last = ""
        self.open = 0

    def take(self, kind: str, found: str, offset: int) -> None:
        if kind == "slot":
            self._refuse(offset, "templates (?principal, ?resource) are not supported")
        if kind == "open":
            # `context["a"]["b"]` nests as `context.a.b` does.
            is_index = found == "[" and self._last in _INDEXED
            self._operators = (self._operators if self.open else 0) + is_index
            self.open += 1
        elif kind == "close":
            self.open = max(0, self.open - 1)
        elif (kind == "operator" and found != "::") or found in _NESTING_WORDS:
            self._operators += 1
        self._last = kind
        if self.open > MAX_NESTING:
            self._refuse(offset, f"brackets are nested more than {MAX_NESTING} deep")
        if self._operators > MAX_OPERATORS:
            several = "use a set, a second when or a second policy"
            self._refuse(offset, f"more than {MAX_OPERATORS} operators in one clause: {several}")

    def _refuse(self, offset: int, reason: str) -> NoReturn:
        raise PolicyRefused([self._places.problem(offset, reason)])
