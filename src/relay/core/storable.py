"""Text that every database takes and nobody reads unseen."""

import re
from typing import Final

_NOT_STORED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def storable(text: str) -> str:
    """Return a text with U+FFFD for each control character and lone surrogate: it may quote anything."""
    return _NOT_STORED.sub("\N{REPLACEMENT CHARACTER}", text)
