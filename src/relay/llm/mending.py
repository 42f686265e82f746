"""Text from a model that can be encoded: lone surrogates, which JSON can hold and UTF-8 cannot, are replaced."""

import re
from typing import Final

_REPLACEMENT: Final = "�"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_HIGH: Final = re.compile("[\ud800-\udbff]")


def mended(text: str) -> str:
    """Return ``text`` with surrogate pairs as the characters that they mean, and U+FFFD for lone surrogates."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Mender:
    """Mends a text that comes in pieces: the halves of a pair may come in two of them.

    The pieces together are what :func:`mended` would make of the whole.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return as much as is certain by now."""
        piece = self._held + piece
        self._held = piece[-1:] if _HIGH.match(piece[-1:]) else ""
        return mended(piece[: len(piece) - len(self._held)])

    def end(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return mended(held) and _REPLACEMENT
