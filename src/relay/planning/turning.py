"""Whether the words of a prompt turn its meaning round; a hint for judging, where the local planner declines."""

import re
from typing import Final

from relay.planning.words import CONDITIONS, NEGATIONS, QUESTIONS, TIMES

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_TURNING: Final = NEGATIONS | CONDITIONS | TIMES


def turned(text: str) -> bool:
    """Say whether ``text`` negates, makes conditional, postpones, or asks rather than requests."""
    words = [found.group().casefold().replace("’", "'") for found in _WORD.finditer(text)]
    asks = bool(words) and words[0] in QUESTIONS
    return asks or not _TURNING.isdisjoint(words)
