"""Where a quotation ends. A quotation whose end is in doubt is refused, since its content must stay data."""

import re
from typing import Final

from relay.planning.unclear import Unclear, shown

# Opening mark → the marks that may close it.
_PAIRS: Final = {'"': '"', "“": "”", "„": "“”", "«": "»", "`": "`", "'": "'", "‘": "’"}
_NESTING: Final = {"“": "”", "«": "»"}
_STRAY: Final = "”»"


def closing_quote(prompt: str, at: int) -> int | None:
    """Return the offset after the quotation that begins at ``at``, or None when none begins there.

    A quotation mark opens only at the beginning of a word and closes only at the end of one; a straight double
    quotation mark inside is written ``\\"``. :class:`Unclear` when a quotation is not closed, closes inside a
    word, or is closed without having been opened.
    """
    mark = prompt[at]
    if mark in _STRAY:
        raise Unclear(f"There is a closing quotation mark that nothing opened near {_near(prompt, at)}.")
    if mark not in _PAIRS:
        return None
    if at and not _may_touch(prompt[at - 1]):
        if mark == "'":
            return None  # an apostrophe
        raise Unclear(f"It is not clear which quotation marks belong together near {_near(prompt, at)}.")
    end = _end(prompt, at, mark)
    if end < len(prompt) and prompt[end].isalnum():
        raise Unclear(f"It is not clear which quotation marks belong together near {_near(prompt, end)}.")
    return end


def unescape(content: str, mark: str) -> str:
    """Return a quotation's content with ``\\"`` and ``\\\\`` undone where straight double marks enclose it."""
    return re.sub(r'\\(["\\])', r"\1", content) if mark == '"' else content


def _may_touch(before: str) -> bool:
    return not (before.isalnum() or before in "_\"'`”’»")


def _end(prompt: str, at: int, mark: str) -> int:
    if prompt.startswith("```", at):
        found = prompt.find("```", at + 3)
        end = found + 3 if found >= 0 else -1
    elif mark == '"':
        end = _straight(prompt, at + 1)
    elif mark in "'‘":
        end = _single(prompt, at + 1, _PAIRS[mark])
    elif mark in _NESTING:
        end = _nested(prompt, at, mark)
    else:
        end = min((found + 1 for close in _PAIRS[mark] if (found := prompt.find(close, at + 1)) >= 0), default=-1)
    if end < 0:
        raise Unclear(f"The quotation that begins with {shown(prompt[at : at + 40])} is not closed.")
    return end


def _straight(prompt: str, at: int) -> int:
    while at < len(prompt):
        if prompt[at] == '"':
            return at + 1
        at += 2 if prompt[at] == "\\" else 1
    return -1


def _single(prompt: str, at: int, close: str) -> int:
    # An apostrophe inside a word ("don't") closes nothing.
    while (found := prompt.find(close, at)) >= 0:
        if found + 1 == len(prompt) or not prompt[found + 1].isalnum():
            return found + 1
        at = found + 1
    return -1


def _nested(prompt: str, at: int, mark: str) -> int:
    depth = 0
    for position in range(at, len(prompt)):
        if prompt[position] == mark:
            depth += 1
        elif prompt[position] == _NESTING[mark]:
            depth -= 1
            if depth == 0:
                return position + 1
    return -1


def _near(prompt: str, at: int) -> str:
    return shown(prompt[max(0, at - 20) : at + 20])
