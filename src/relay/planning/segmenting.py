"""From tokens to clauses: one for each step that the prompt asks for, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from relay.planning.reading import Token
from relay.planning.words import CLOSINGS, OPENINGS, POLITE_QUESTIONS, VERBS

# Verbs that are as often the name of a parameter; they begin a step only where a separator says so.
_LABEL_LIKE: Final = frozenset({"head", "message", "options", "query", "record"})
_SEQUENCE: Final = frozenset({"then", "afterwards", "afterward"})
# What may stand between a separator and the verb, and how much of it.
_BETWEEN: Final = frozenset({"and", "also", "please", "finally", "next"})
_FILLERS: Final = 3
_LONGEST_OPENING: Final = max(map(len, OPENINGS))


@dataclass(frozen=True, slots=True)
class Clause:
    """The tokens of one requested step, without the courtesies at its beginning.

    ``polite`` says that it is put as a polite question ("could you …?").
    """

    tokens: tuple[Token, ...]
    polite: bool

    @property
    def start(self) -> int:
        """Offset of the first character."""
        return self.tokens[0].start

    @property
    def end(self) -> int:
        """Offset after the last character."""
        return self.tokens[-1].end


def word_of(token: Token) -> str:
    """Return a word token's text folded to lower case with straight apostrophes, "" for any other token."""
    return token.text.casefold().replace("’", "'") if token.kind == "word" else ""


def split(tokens: Sequence[Token], own_verbs: frozenset[str] = frozenset()) -> list[Clause]:
    """Return the clauses of a prompt; quoted text is one token and is never split.

    A step ends at "then", "afterwards", "after that", a semicolon, the end of a sentence, a list item, and at
    "and", a comma or a new line before a verb of :data:`VERBS` or ``own_verbs``. What consists of courtesies
    alone is dropped, unless it may belong to unquoted text before it.
    """
    clauses: list[Clause] = []
    for piece in _pieces(tokens, VERBS | own_verbs):
        clause = _clause(piece)
        if clause is None:
            continue
        if clauses and _courtesy(clause) and _last_kind(clauses[-1]) != "word":
            continue
        clauses.append(clause)
    return clauses


def _pieces(tokens: Sequence[Token], verbs: frozenset[str]) -> Iterator[list[Token]]:
    piece: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind in ("stop", "question"):
            yield [*piece, token]
            piece = []
        elif width := _separator(tokens, at, verbs):
            yield piece
            piece = []
            at += width
            continue
        else:
            piece.append(token)
        at += 1
    yield piece


def _separator(tokens: Sequence[Token], at: int, verbs: frozenset[str]) -> int:
    """Return how many tokens from ``at`` separate two steps; 0 when none does."""
    token, word = tokens[at], word_of(tokens[at])
    following = word_of(tokens[at + 1]) if at + 1 < len(tokens) else ""
    if token.kind == "item" or token.is_mark(";") or word in _SEQUENCE:
        return 1
    if (word, following) == ("after", "that"):
        return 2
    if word == "and" or token.is_mark(",") or token.kind == "newline":
        for ahead, after in enumerate(tokens[at + 1 : at + 2 + _FILLERS], 1):
            if word_of(after) in verbs - _LABEL_LIKE:
                return ahead
            if word_of(after) not in _BETWEEN and after.kind != "newline":
                break
    return 0


def _clause(piece: list[Token]) -> Clause | None:
    first, last, polite = 0, len(piece), False
    while first < last:
        if piece[first].is_mark(",:") or piece[first].kind in ("newline", "stop"):
            first += 1
        elif opening := _opening(piece[first : first + _LONGEST_OPENING]):
            polite = polite or opening in POLITE_QUESTIONS
            first += len(opening)
        else:
            break
    while first < last and _connects(piece[last - 1]):
        last -= 1
    return Clause(tuple(piece[first:last]), polite) if first < last else None


def _connects(token: Token) -> bool:
    return token.is_mark(",") or token.kind == "newline" or word_of(token) == "and"


def _opening(tokens: Sequence[Token]) -> tuple[str, ...] | None:
    words = tuple(word_of(token) for token in tokens)
    return next((opening for opening in OPENINGS if words[: len(opening)] == opening), None)


def _courtesy(clause: Clause) -> bool:
    return all(word_of(token) in CLOSINGS or token.kind in ("mark", "stop", "newline") for token in clause.tokens)


def _last_kind(clause: Clause) -> str:
    return next((token.kind for token in reversed(clause.tokens) if token.kind not in ("stop", "mark")), "word")
