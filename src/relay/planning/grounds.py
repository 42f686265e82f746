"""Where recipients and hosts may come from: what the caller says, never what a model makes up.

A destination counts where the caller's own words name it. In what is data, a quotation in the prompt or a value of the
context, it counts only where it is all of that value: somebody's text that mentions an address is no reason to send to
it, which is how injected instructions ask for it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from relay.core.domains import ascii_domain, comparable_address
from relay.egress.target import BadTarget, parse_host
from relay.planning.quotes import closing_quote, unescape
from relay.planning.unclear import Unclear

Ground = Literal["prompt", "context"]

_URL: Final = re.compile(r"https?://[^\s\"'“”«»<>`{}|\\^]+", re.IGNORECASE)
_BREAKS: Final = re.compile(r"[\s\"“”„«»‘<>(){}\[\],;:|\\`]+")
_HOST: Final = re.compile(r"(?<![\w@/.=&?%+:-])\w[\w-]*(?:\.[\w-]+)+")
_NAMED: Final = re.compile(r"[^<>@]{0,200}<([^<>\s]{1,254})>")
_ENDING: Final = ".!?…'’,;:"


@dataclass(frozen=True, slots=True)
class Grounds:
    """The destinations that a caller has named, in the form that :class:`~relay.core.exposed.Exposed` has."""

    prompt: frozenset[str]
    context: frozenset[str]

    def of(self, destination: str) -> Ground | None:
        """Say where a recipient or host was named, None when nowhere."""
        known = destination.lower()
        return "prompt" if known in self.prompt else "context" if known in self.context else None


def grounds_of(prompt: str, context: Mapping[str, Any] | None) -> Grounds:
    """Return what ``prompt`` and ``context`` name. Total: for any text, in time that grows with its length."""
    outside, quotations = apart(prompt)
    said = {*_addresses(outside), *_hosts(outside), *_words(outside)}
    for quotation in quotations:
        said.update(_whole(quotation))
    given = {name for text in _texts(context) for name in _whole(text)}
    # No case folding: it makes strasse.de of straße.de, which is somebody else's.
    return Grounds(frozenset(map(str.lower, said)), frozenset(map(str.lower, given)))


def apart(prompt: str) -> tuple[str, tuple[str, ...]]:
    """Return a prompt without its quotations, and what they hold.

    What follows a quotation mark whose partner is in doubt is left out: a stranger's text could hold one.
    """
    outside: list[str] = []
    quotations: list[str] = []
    at = begin = 0
    while at < len(prompt):
        try:
            end = closing_quote(prompt, at)
        except Unclear:
            return " ".join([*outside, prompt[begin:at]]), tuple(quotations)
        if end is None:
            at += 1
            continue
        width = 3 if prompt.startswith("```", at) else 1
        outside.append(prompt[begin:at])
        quotations.append(unescape(prompt[at + width : end - width], prompt[at]))
        at = begin = end
    outside.append(prompt[begin:])
    return " ".join(outside), tuple(quotations)


def _addresses(text: str) -> Iterator[str]:
    for piece in _BREAKS.split(text):
        piece = piece.lstrip("'").rstrip(_ENDING)
        if piece.count("@") == 1:
            yield comparable_address(piece)


def _words(text: str) -> Iterator[str]:
    """Yield what may name a recipient that is no address, such as a channel."""
    for piece in _BREAKS.split(text):
        if word := piece.rstrip(_ENDING):
            yield word


def _hosts(text: str) -> Iterator[str]:
    for found in _URL.finditer(text):
        if host := _host_of(found.group()):
            yield host
    for found in _HOST.finditer(_URL.sub(" ", text)):
        yield _ascii(found.group().rstrip(".-"))


def _host_of(url: str) -> str | None:
    """Return a URL's host as it is compared, None for one with a user name, whose host is easily misread."""
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0].rstrip(".,;:!?)’'")
    if not authority or "@" in authority:
        return None
    try:
        if authority.startswith("["):
            return parse_host(authority[: authority.find("]") + 1])
        return _ascii(authority.partition(":")[0])
    except BadTarget:
        return None


def _ascii(host: str) -> str:
    try:
        return ascii_domain(host)
    except UnicodeError:
        return host.lower()


def _whole(text: str) -> Iterable[str]:
    """Return what a value names that is a destination and nothing else."""
    text = text.strip()
    if not text or len(text) > 8192:
        return ()
    named = _NAMED.fullmatch(text)
    single = named[1] if named else text
    if any(character.isspace() for character in single):
        return ()
    if _URL.fullmatch(single):
        host = _host_of(single)
        return () if host is None else (host,)
    if single.count("@") == 1:
        return tuple(_addresses(single))
    return (_ascii(single), single)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text that is a value in ``value``, names of members left aside."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, Mapping):
            waiting.extend(found.values())
        elif isinstance(found, list | tuple):
            waiting.extend(found)
