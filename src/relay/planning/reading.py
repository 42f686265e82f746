"""From characters to tokens: what is quoted, what is JSON, an address, a URL, a word.

Everything inside quotation marks or a JSON literal becomes one token whose content nothing reads as an instruction.
One pass from left to right; every pattern is anchored and bounded, so the time is linear in the prompt.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Final, Literal

from relay.core.canonical import NotCanonical, canonical_json
from relay.core.hidden import code_point, hidden_in, kind_of
from relay.core.references import RESULT_OF
from relay.planning.quotes import closing_quote, unescape
from relay.planning.unclear import Unclear, shown

Kind = Literal["word", "quote", "json", "address", "contact", "url", "item", "stop", "question", "newline", "mark"]

MAX_JSON_DEPTH: Final = 32

_SPACE: Final = re.compile(r"[^\S\n]+")
_URL: Final = re.compile(r"https?://[^\s\"“”«»<>`{}|\\^]+", re.IGNORECASE)
_CHUNK: Final = re.compile(r"[^\s,;:=\"“”„«»‘<>(){}\[\]`]+")
_LABEL: Final = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
ADDRESS: Final = re.compile(rf"\w[\w.+%'-]{{0,63}}@{_LABEL}(?:\.{_LABEL})+")
# What may follow an address; anything else means that it is part of something that is not understood.
_AFTER_ADDRESS: Final = re.compile(r"[.!?'’]*(?:[\s,;:\"“”„«»‘<>()\[\]`]|$)")
_ITEM: Final = re.compile(r"(\d{1,2})[.)](?=\s)")
_BULLET: Final = re.compile(r"[-*•](?=[^\S\n])")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the prompt: ``text`` as written, ``value`` as meant, ``start`` and ``end`` as offsets."""

    kind: Kind
    text: str
    value: Any
    start: int
    end: int

    def is_mark(self, marks: str) -> bool:
        """Tell whether this is one of the punctuation marks in ``marks``."""
        return self.kind == "mark" and self.text in marks


def read(prompt: str) -> list[Token]:
    """Return the tokens of ``prompt``; :class:`Unclear` where quotes, JSON or characters leave room for doubt."""
    _refuse_hidden_characters(prompt)
    tokens: list[Token] = []
    items, at = 0, 0
    while at < len(prompt):
        if space := _SPACE.match(prompt, at):
            at = space.end()
            continue
        token = _next(prompt, at, items, not tokens or tokens[-1].kind == "newline")
        if token.kind == "item":
            items = token.value or 0
        tokens.append(token)
        at = token.end
    return tokens


def _refuse_hidden_characters(prompt: str) -> None:
    if hidden := hidden_in(prompt):
        character = hidden.group()[0]
        raise Unclear(f"The prompt contains {kind_of(character)} ({code_point(character)}); please remove it.")


def _next(prompt: str, at: int, items: int, line_start: bool) -> Token:
    first = prompt[at]
    if first == "\n":
        return Token("newline", first, None, at, at + 1)
    if (end := closing_quote(prompt, at)) is not None:
        return _quote(prompt, at, end)
    if first in "{[":
        return _json(prompt, at)
    if url := _URL.match(prompt, at):
        return _url(url.group(), at)
    if (number := _ITEM.match(prompt, at)) and (line_start or int(number.group(1)) == items + 1):
        return Token("item", number.group(), int(number.group(1)), at, number.end())
    if line_start and (bullet := _BULLET.match(prompt, at)):
        return Token("item", bullet.group(), None, at, bullet.end())
    if address := _address(prompt, at):
        return address
    if chunk := _CHUNK.match(prompt, at):
        return _word(chunk.group(), at)
    return Token("mark", first, None, at, at + 1)


def _quote(prompt: str, at: int, end: int) -> Token:
    width = 3 if prompt.startswith("```", at) else 1
    content = prompt[at + width : end - width]
    if width == 3:
        content = content.strip("\n")
    return Token("quote", prompt[at:end], unescape(content, prompt[at]), at, end)


def _url(text: str, at: int) -> Token:
    text = text[: _url_end(text)]
    if any(unicodedata.category(character) == "Cf" for character in text):
        raise Unclear(f"The URL {shown(text)} contains invisible characters; please type it again.")
    host = text.partition("://")[2]
    return Token("url" if host and host[0] not in "/?#" else "word", text, text, at, at + len(text))


def _url_end(text: str) -> int:
    """Leave out sentence punctuation after a URL, and a closing bracket unless the URL opened it."""
    surplus = {")": text.count(")") - text.count("("), "]": text.count("]") - text.count("[")}
    end = len(text)
    while text[end - 1] in ".,;:!?'’" or surplus.get(text[end - 1], 0) > 0:
        end -= 1
        if text[end] in surplus:
            surplus[text[end]] -= 1
    return end


def _address(prompt: str, at: int) -> Token | None:
    found = ADDRESS.match(prompt, at)
    if found is None or not _AFTER_ADDRESS.match(prompt, found.end()):
        return None
    return Token("address", found.group(), found.group(), at, found.end())


def _word(chunk: str, at: int) -> Token:
    text = chunk.rstrip(".!?…")
    if text:
        return Token("word", text, text, at, at + len(text))
    kind: Kind = "question" if "?" in chunk else "stop"
    return Token(kind, chunk, None, at, at + len(chunk))


def _json(prompt: str, at: int) -> Token:
    try:
        value, end = _DECODER.raw_decode(prompt, at)
        if _depth(value) > MAX_JSON_DEPTH:
            raise ValueError("nested too deeply")
        canonical_json(value)
    except (ValueError, RecursionError, NotCanonical):
        raise Unclear(
            f"What begins with {shown(prompt[at : at + 40])} is not JSON that a step may hold (each key once, none "
            f"named {RESULT_OF}, {MAX_JSON_DEPTH} levels, numbers within ±(2^53−1)); put it into quotation marks "
            "if it is text."
        ) from None
    return Token("json", prompt[at:end], value, at, end)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    if RESULT_OF in result:
        # Data must not become a reference to what another step returned.
        raise ValueError("a reserved key")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_JSON_DEPTH:
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        depth += 1
    return depth
