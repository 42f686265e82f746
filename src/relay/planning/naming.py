"""The words of values and prompts, for comparing what was asked with what is proposed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from relay.core.references import RESULT_OF

_WORD: Final = re.compile(r"[^\W_]+")
_URL: Final = re.compile(r"https?://[^\s\"'“”«»<>`{}|\\^]+", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"[\w.+%-]+@[\w.-]*\w")


def words_of(text: str) -> list[str]:
    """Return the words and numbers of a text, folded for comparison."""
    return [found.group().casefold() for found in _WORD.finditer(text)]


def texts_of(value: Any) -> Iterator[str]:
    """Yield every text and number that is a value in ``value``; references and the names of members are none."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, bool) or found is None:
            continue
        elif isinstance(found, int | float):
            yield str(found)
        elif isinstance(found, Mapping):
            if RESULT_OF not in found:
                waiting.extend(found.values())
        elif isinstance(found, list | tuple):
            waiting.extend(found)


def names_of(value: Any) -> Iterator[str]:
    """Yield the name of every member in ``value``."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Mapping):
            yield from found
            waiting.extend(found.values())
        elif isinstance(found, list | tuple):
            waiting.extend(found)


def named(outside: str, quotations: Sequence[str]) -> list[str]:
    """Return what a prompt names outright: the URLs and addresses of its own words, and each quotation."""
    urls = [found.group().rstrip(".,;:!?)’'") for found in _URL.finditer(outside)]
    addresses = [found.group() for found in _ADDRESS.finditer(_URL.sub(" ", outside))]
    return [*urls, *addresses, *quotations]
