"""Values that stand without quotation marks: a run of words, or a single word of a typed parameter."""

from collections.abc import Sequence
from typing import Any, Final

from relay.planning.profile import Parameter, Profile
from relay.planning.reading import Token
from relay.planning.segmenting import Clause, word_of
from relay.planning.unclear import Unclear, shown

# How many words like "and with the" may stand between a comma and what it separates.
_FILLERS: Final = 4


def free_text(profile: Profile, clause: Clause, at: int, prompt: str, parameter: Parameter) -> tuple[str, int]:
    """Return the unquoted text that begins at token ``at`` and the index after it.

    It ends before a comma or new line that another announced value follows, a title also before announced text,
    and before the full stop of the sentence. :class:`Unclear` when it is empty or holds an address, a quotation
    or JSON: then nobody can tell where it ends.
    """
    tokens = clause.tokens
    end = at
    while end < len(tokens) and not _ends(profile, tokens, end, parameter):
        token = tokens[end]
        if token.kind in ("address", "quote", "json", "question"):
            raise Unclear(
                f"it is not clear whether {shown(token.text)} belongs to the {parameter.name}; "
                f"put the {parameter.name} into quotation marks"
            )
        end += 1
    last = end
    while last > at and (tokens[last - 1].text == "." or _joins(tokens[last - 1])):
        last -= 1
    if last == at:
        raise Unclear(f"the {parameter.name} is empty")
    return prompt[tokens[at].start : tokens[last - 1].end], end


def _ends(profile: Profile, tokens: Sequence[Token], at: int, parameter: Parameter) -> bool:
    token = tokens[at]
    if token.kind == "newline" and parameter.role == "title":
        return True
    if token.is_mark(",") or token.kind == "newline":
        ahead = range(at + 1, min(at + 1 + _FILLERS, len(tokens)))
        following = next((index for index in ahead if not _joins(tokens[index])), None)
        return following is not None and _announces(profile, tokens, following) is not None
    return parameter.role == "title" and _announces(profile, tokens, at) == "text"


def _announces(profile: Profile, tokens: Sequence[Token], at: int) -> str | None:
    label = profile.label_at(tokens, at)
    if label is None:
        return None
    after = tokens[at + len(label.words)] if at + len(label.words) < len(tokens) else None
    plainly = after is not None and (after.kind in ("quote", "json") or after.is_mark(":="))
    return label.parameter.role if label.firm or plainly else None


def _joins(token: Token) -> bool:
    return token.is_mark(",") or token.kind == "newline" or word_of(token) in ("and", "with", "the", "a")


def scalar(parameter: Parameter, word: str) -> Any:
    """Return one unquoted word as a value of ``parameter``'s type; :class:`Unclear` when it is none."""
    single = parameter.schema.get("items", {}) if parameter.many else parameter.schema
    kind = single.get("type")
    try:
        if kind == "integer":
            return int(word)
        if kind == "number":
            return float(word)
    except ValueError:
        raise Unclear(f"{shown(word)} is no number for {parameter.name}") from None
    if kind == "boolean" and word.casefold() in ("true", "false", "yes", "no"):
        return word.casefold() in ("true", "yes")
    if kind == "string" or "enum" in single:
        return word
    raise Unclear(f"{shown(word)} is no value for {parameter.name}")
