"""Names that stand for addresses: the one thing that the local planner takes from a request's context."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from relay.planning.reading import ADDRESS, Token
from relay.planning.segmenting import word_of
from relay.planning.unclear import Unclear, shown
from relay.planning.words import BEFORE, CLOSINGS, GLUE, MESSAGE_GLUE, OPENINGS, REQUEST_GLUE, VERBS, plain_word

MAX_CONTACTS: Final = 1000
_MAX_WORDS: Final = 4
# A contact that is called like a word of the command language would change what a prompt means.
_RESERVED: Final = (
    VERBS
    | GLUE
    | MESSAGE_GLUE
    | REQUEST_GLUE
    | CLOSINGS
    | frozenset(word for opening in OPENINGS for word in opening)
    | frozenset("cc bcc subject about saying then it me".split())
)
Contacts = Mapping[tuple[str, ...], str | None]


def contacts_of(context: Mapping[str, Any] | None, labels: Set[str] = frozenset()) -> dict[tuple[str, ...], str | None]:
    """Return the usable entries of ``context["contacts"]``, a mapping of names to addresses.

    Keys are the names' words in lower case; a name that two entries give different addresses maps to None.
    Whatever is not a name of at most four words with one address is passed over, and so is a name that begins with
    one of ``labels``, the words that announce a parameter; other members of the context are never read.
    """
    given = context.get("contacts") if isinstance(context, Mapping) else None
    found: dict[tuple[str, ...], str | None] = {}
    if not isinstance(given, Mapping):
        return found
    for name, address in list(given.items())[:MAX_CONTACTS]:
        if not isinstance(name, str) or not isinstance(address, str) or not ADDRESS.fullmatch(address):
            continue
        words = tuple(name.casefold().replace("’", "'").split())
        if not words or len(words) > _MAX_WORDS or _RESERVED.issuperset(words) or plain_word(words[0]) in labels:
            continue
        found[words] = address if found.get(words, address) == address else None
    return found


def with_contacts(tokens: Sequence[Token], contacts: Contacts) -> list[Token]:
    """Return ``tokens`` with each name that ``contacts`` knows as one ``contact`` token; the longest name wins.

    Names inside quotation marks stay text. :class:`Unclear` for a name with two addresses.
    """
    if not contacts:
        return list(tokens)
    result: list[Token] = []
    at = 0
    while at < len(tokens):
        words = _words_from(tokens, at) if at and _may_precede(tokens[at - 1]) else ()
        width = next((n for n in range(len(words), 0, -1) if words[:n] in contacts), 0)
        result.append(_contact(tokens[at : at + width], contacts[words[:width]]) if width else tokens[at])
        at += width or 1
    return result


def without_display_names(tokens: Sequence[Token]) -> list[Token]:
    """Return ``tokens`` with ``Ada Lovelace <ada@x.example>`` and ``<ada@x.example>`` as plain address tokens."""
    result: list[Token] = []
    for at, token in enumerate(tokens):
        closes = token.is_mark(">") and at >= 2 and tokens[at - 1].kind == "address" and tokens[at - 2].is_mark("<")
        if not closes:
            result.append(token)
            continue
        address = result.pop()
        result.pop()
        for _ in range(_MAX_WORDS):
            if result and result[-1].kind == "word" and _is_name(result[-1]):
                result.pop()
        result.append(address)
    return result


def _is_name(token: Token) -> bool:
    return token.text[0].isupper() and word_of(token) not in _RESERVED


def _may_precede(token: Token) -> bool:
    word = word_of(token)
    return token.kind != "word" or word in BEFORE["contact"] or word in VERBS or word in ("cc", "bcc", "copying")


def _words_from(tokens: Sequence[Token], at: int) -> tuple[str, ...]:
    words: list[str] = []
    for token in tokens[at : at + _MAX_WORDS]:
        if token.kind != "word":
            break
        words.append(word_of(token))
    return tuple(words)


def _contact(tokens: Sequence[Token], address: str | None) -> Token:
    name = " ".join(token.text for token in tokens)
    if address is None:
        raise Unclear(f"The context gives {shown(name)} more than one address.")
    return Token("contact", name, address, tokens[0].start, tokens[-1].end)
