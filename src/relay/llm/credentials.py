"""What looks like a credential in words meant for a model: as in logs, and besides in prose and in encodings.

Prose is where people tell a model their secrets ("the password for the wiki is …"), and results of actions hold them
in base64. For lines of a log neither is worth its false alarms. It errs on the side of hiding, and takes time linear in
the length of the text: each pattern begins with fixed characters or takes a whole run at once, and gives nothing back.
"""

import binascii
import re
from collections.abc import Iterator
from typing import Final

from relay.telemetry.redaction import HIDDEN, redact_text

_NAME: Final = (
    r"(?:pass(?:word|phrase|code|wd)|pwd|secret|token|credential|(?:api|access|private|secret|license)[ _-]?key)s?+"
)
_HINTS: Final = ("pass", "pwd", "secret", "token", "credential", "key")
_FOR: Final = r"(?:\s{1,4}+(?:for|of|to|on|in|at)(?:\s{1,4}+[\w.@'-]{1,40}+){1,6}?)?"
_IS: Final = r"\s{1,4}+(?:is|are|was|be|will\sbe|reads|equals|to)(?:\s{1,4}+(?:now|still|currently))?(?::|\s)\s{0,4}+"
_MARKS: Final = "\"'“”„«»‘’"
# Escaped where the text is JSON, again for every time that it is put into another.
_QUOTED: Final = (
    r"\\{0,8}(?:\"(?P<double>[^\"\r\n\\]++)|'(?P<single>[^'\r\n\\]++)"
    r"|[“„](?P<curly>[^“”\r\n]++)|«(?P<angle>[^»\r\n]++))"
)
# A word without a digit is a word ("the password is required"); so is one that counts ("a 64-character one").
_BARE: Final = (
    rf"`?(?!https?://|[0-9]+-[a-z]+\b)(?=[^\s{_MARKS}`<>\\,;]{{0,100}}[0-9])"
    rf"(?P<bare>[^\s{_MARKS}`<>\\,;]{{6,}}+)"
)
_ENDS: Final = ".:)]}?"
_PROSE: Final = re.compile(rf"{_NAME}{_FOR}{_IS}(?:{_QUOTED}|{_BARE})", re.IGNORECASE)

_ENCODED: Final = re.compile(
    # Lines of 60 characters and more go on in the next one.
    r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{20,}+(?:(?<=[A-Za-z0-9+/]{60})(?:\r?\n|(?:\\r)?\\n)[A-Za-z0-9+/_-]++)*+={0,2}"
)
_BREAKS: Final = re.compile(r"\\[rn]|[\r\n=]")
_URL_SAFE: Final = str.maketrans("-_", "+/")


def without_credentials(text: str) -> str:
    """Return ``text`` with ``***`` in place of whatever looks like a credential.

    Besides what :func:`relay.telemetry.redaction.redact_text` finds, that is the value in a sentence such as "my
    password is …", in quotation marks or with a digit in it, and base64 or hexadecimal digits that hold a credential.
    """
    text = redact_text(text)
    lowered = text.lower()
    if any(hint in lowered for hint in _HINTS):
        text = _PROSE.sub(_hidden_value, text)
    return _ENCODED.sub(_hidden_code, text)


def _hidden_value(found: re.Match[str]) -> str:
    whole, group = found[0], found.lastgroup or ""
    value = found[group]
    end = value[len(value.rstrip(_ENDS)) :] if group == "bare" else ""
    begins, ends = found.start(group) - found.start(), found.end(group) - found.start()
    return whole[:begins] + HIDDEN + end + whole[ends:]


def _hidden_code(found: re.Match[str]) -> str:
    code = _BREAKS.sub("", found[0])
    return HIDDEN if any(redact_text(text) != text for text in _decoded(code)) else found[0]


def _decoded(code: str) -> Iterator[str]:
    """Yield what the code may stand for; what stands before it may have shifted it by up to three characters."""
    plain = code.translate(_URL_SAFE).encode()
    for start in range(4):
        part = plain[start:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        yield binascii.a2b_base64(part + b"=" * (-len(part) % 4)).decode("latin-1")
    try:
        yield binascii.unhexlify(plain[: len(plain) // 2 * 2]).decode("latin-1")
    except binascii.Error:
        return
