"""What a reader of Markdown, or a program that makes links of plain text, could take for the beginning of something.

Every pattern looks at a bounded part of a text and never back, so that no text makes one of them slow. ``…_BEGUN``
tells that more text could still complete what the pattern without it describes.
"""

import re
import unicodedata
from html.entities import html5
from typing import Final

from relay.core.hidden import hidden_in

MAX_CODE: Final = 1000
MAX_AUTHORITY: Final = 300
MAX_LABEL: Final = 63

_JOINING: Final = frozenset(["Mn", "Mc", "Me", "Cf", "Cn", "Co"])
_WORDS: Final = "(?i:h(?:tt|xx)ps?|f[tx]ps?|mailto|xmpp|javascript|vbscript|data|file|blob)(?=:)"
TRIGGER: Final = re.compile(rf"[\n`<&\\\]$.?]|!\[|//+|~~~+|{_WORDS}|(?i:www)(?=\.)", re.ASCII)
BEGUN: Final = re.compile(r"(?:[A-Za-z]{1,10}|/|!|~~?)\Z")
TAIL: Final = 10
TICKS: Final = re.compile(r"`+|\n")
MAIL: Final = re.compile(r"<(?:(?!&lt;)[^\s<>@]){1,200}+@(?:(?!&lt;)[^\s<>]){1,300}+>")
MAIL_BEGUN: Final = re.compile(r"<(?:(?!&lt;)[^\s<>@]){1,200}+(?:@(?:(?!&lt;)[^\s<>]){0,300}+)?\Z")
IN_ADDRESS: Final = re.compile(r"\?[^\s@?]{0,200}+@")
IN_ADDRESS_BEGUN: Final = re.compile(r"\?[^\s@?]{0,200}+\Z")
REFERENCE: Final = re.compile(r"&(?:(#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,8})|([A-Za-z][A-Za-z0-9]{0,31}));")
REFERENCE_BEGUN: Final = re.compile(r"&[#A-Za-z0-9]{0,33}\Z")
AUTHORITY: Final = re.compile(rf"(?:(?!{_WORDS}|(?i:www)\.(?!\w))[^\s/?#<>\"'()\[\]{{}}|\\^`&$~]){{0,300}}", re.ASCII)
WORD: Final = re.compile(r"[^ \t\n]{0,300}")
MAX_WORD: Final = 300
INNER_DOT: Final = re.compile(r"\.(?=\w)")
LABEL: Final = re.compile(r"[\w-]{0,64}")
_WORDS_OF_IMAGE: Final = r"!\[(?P<alt>[^\[\]\\`$<&|\n]{0,200}+)"
_PLACE: Final = r"[^()\[\]\\`$|\n]"
IMAGE: Final = re.compile(
    rf"{_WORDS_OF_IMAGE}\]\((?P<to>{_PLACE}{{0,1000}}+(?:\({_PLACE}{{0,200}}+\){_PLACE}{{0,200}}+)?)\)"
)
IMAGE_BEGUN: Final = re.compile(
    rf"{_WORDS_OF_IMAGE}(?:\](?:\({_PLACE}{{0,1000}}+(?:\({_PLACE}{{0,200}}+(?:\){_PLACE}{{0,200}}+)?)?)?)?\Z"
)
TO_HOST: Final = re.compile(
    r"[ \t<]{0,8}(?:[A-Za-z][A-Za-z0-9+.-]{0,20}:)?[/]{2,8}(?:[^/?# @]{0,100}@)?([\w.-]{1,100})"
)

RISKY: Final = frozenset(
    name.removesuffix(";")
    for name, value in html5.items()
    if name.removesuffix(";") not in {"lt", "gt", "amp", "quot", "LT", "GT", "AMP", "QUOT"}
    and (any(ord(character) < 0x80 for character in value) or hidden_in(value) is not None)
)
"""Names of characters that a renderer would put into an address, or that nobody would see."""

# Known as ends of file names, and as members of objects; two labels and no path give nothing away.
FILES: Final = frozenset(
    ["cc", "id", "in", "is", "md", "ml", "mm", "name", "no", "pl", "ps", "py", "rs", "sh", "so", "to"]
)
ESCAPED: Final = frozenset(":/.@")
BLANK: Final = frozenset(" \t\n")


def means_nothing(text: str) -> bool:
    """Tell whether a text holds nothing that a scanner would stop at."""
    return TRIGGER.search(text) is None


def in_label(character: str) -> bool:
    """Tell whether programs that make links of plain text take a character for a part of a host's label."""
    return character.isalnum() or character in "_-" or unicodedata.category(character) in _JOINING


def is_symbol(character: str) -> bool:
    """Tell whether they may do so, or may begin anew behind it, as behind a strikethrough."""
    return bool(character) and unicodedata.category(character)[0] == "S"


def is_tag(after: str) -> bool:
    """Tell whether ``<`` before this begins an element, a comment or a declaration (HTML, 13.2.5.6)."""
    return after.isascii() and (after.isalpha() or after in ("/", "!", "?"))


def defanged(scheme: str) -> str:
    """Return ``hxxps`` for ``https``, ``fxp`` for ``ftp``, in the same case."""
    return f"{scheme[0]}xp{scheme[3:]}" if scheme[0] in "fF" else f"{scheme[0]}xx{scheme[3:]}"
