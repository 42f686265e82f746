"""Addresses that may be followed: ``https://`` and a listed host, in a form that all who read it read alike."""

import re
import unicodedata
from collections.abc import Collection
from typing import Final, Literal

Verdict = int | Literal["no", "more"]
"""Where a listed address, with what belongs to it, ends; ``more``: what is there does not tell yet."""

MAX_ADDRESS: Final = 2048
"""Of a listed address with its brackets and title, in characters; a longer one is not listed."""

_SCHEME: Final = "https://"
_MAX_HOST: Final = 253
_RUN: Final = re.compile(r"[A-Za-z0-9.-]{0,254}")
_LEAD: Final = re.compile(r"[ \t]{0,8}<?")

# Behind a bare host nothing may stand that a browser would still take for a part of it, as in
# https://listed.example'.evil.example; a path, query or fragment settles where it ends.
_AHEAD: Final = 10
_SETTLED: Final = r"""(?=[.,;:!?'")*_~\]]{0,8}(?:[ \t\n]|\Z))"""
_ADDRESS: Final = r"https://[a-z0-9-]++(?:\.[a-z0-9-]++)*+(?::443)?+"
_PLAIN: Final = r"[a-z0-9/.?#=%+:@_~,;!'*-]++|&(?![a-z#][a-z0-9]{0,31};)"
_TAIL: Final = rf"[/?#](?:{_PLAIN})*+"
_BRACKETED: Final = rf"[/?#](?:{_PLAIN}|&amp;|\((?:{_PLAIN}|&amp;)*+\))*+"
_TITLE: Final = r"""(?:[ \t]{1,8}"[\w ,;!?'-]{0,200}")?"""

_BARE: Final = re.compile(rf"{_ADDRESS}(?:(?P<tail>{_TAIL})|{_SETTLED})", re.IGNORECASE | re.ASCII)
_ANGLE: Final = re.compile(rf"<{_ADDRESS}(?P<tail>{_BRACKETED})?>", re.IGNORECASE | re.ASCII)
_INLINE: Final = re.compile(
    rf"\([ \t]{{0,8}}(?:<{_ADDRESS}(?P<angled>{_BRACKETED})?>{_TITLE}[ \t]{{0,8}}\)"
    rf"|{_ADDRESS}(?P<tail>{_BRACKETED}){_TITLE}[ \t]{{0,8}}\)"
    rf"|{_ADDRESS}{_TITLE}[ \t]{{0,8}}\){_SETTLED})",
    re.IGNORECASE | re.ASCII,
)
_DEFINITION: Final = re.compile(
    rf":[ \t]{{0,8}}(?:<{_ADDRESS}(?P<angled>{_BRACKETED})?>|{_ADDRESS}(?P<tail>{_BRACKETED})?)"
    rf"{_TITLE}[ \t]{{0,8}}(?=\n|\Z)",
    re.IGNORECASE | re.ASCII,
)

_COUNTRIES: Final = (
    "a[cdefgilmnoqrstuwxz]|b[abdefghijmnorstvwyz]|c[acdfghiklmnoruvwxyz]|d[ejkmoz]|e[cegrstu]|f[ijkmor]"
    "|g[abdefghilmnpqrstuwy]|h[kmnrtu]|i[delmnoqrst]|j[emop]|k[eghimnprwyz]|l[abcikrstuvy]|m[acdeghklmnopqrstuvwxyz]"
    "|n[acefgilopruz]|om|p[aefghklmnrstwy]|qa|r[eosuw]|s[abcdeghijklmnortuvxyz]|t[cdfghjklmnortvwz]|u[agksyz]"
    "|v[aceginu]|w[fs]|y[et]|z[amw]"
)
_GENERIC: Final = (
    "com|net|org|edu|gov|mil|int|biz|info|name|pro|web|xxx|aero|asia|coop|museum|shop|app|dev|page|site|online|xyz|top"
    "|club|cloud|tech|store|blog|live|link|click|icu|vip|zip|mov|onion|localhost|рф|xn--[a-z0-9-]{1,59}"
)
TOP_LEVEL: Final = re.compile(rf"(?:{_COUNTRIES}|{_GENERIC})", re.IGNORECASE)
"""The last label of what programs that look for addresses in plain text take for one."""

# Where emphasis or a quotation may end, a program that makes links of plain text begins anew, and takes what looks like
# another address for one. An underscore between letters ends nothing.
_JOINT: Final = re.compile(r"[~,;!'*()]|(?<![a-z0-9])_|_(?![a-z0-9])", re.IGNORECASE)
_START: Final = re.compile("")
_ANOTHER: Final = re.compile(
    rf"//|www\.|(?:mailto|xmpp|https?|ftp):|[a-z0-9-]\.(?:{_COUNTRIES}|{_GENERIC})(?![a-z0-9-])", re.IGNORECASE
)


class Listed:
    """The hosts that are listed; ``*.example.com`` stands for everything below it."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._names = frozenset(host for host in hosts if not host.startswith("*."))
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))

    def __contains__(self, host: str) -> bool:
        """Tell whether links may lead to ``host``, in whatever case it is written."""
        name = host.lower()
        if len(name) > _MAX_HOST or not all(name.split(".")):
            return False
        return name in self._names or name.endswith(self._suffixes)

    def bare(self, text: str, at: int, final: bool, before: str) -> Verdict:
        """Judge an address that begins at ``at`` and stands by itself, behind the character ``before``."""
        # Not everybody takes it for an address behind anything else, and may find another one further on.
        begins = not before or before.isspace() or (before not in "_-." and unicodedata.category(before)[0] == "P")
        return self._judge(_BARE, text, at, at, final, whole=begins)

    def angle(self, text: str, at: int, final: bool) -> Verdict:
        """Judge ``<https://…>`` that begins at ``at``."""
        return self._judge(_ANGLE, text, at, at + 1, final)

    def inline(self, text: str, at: int, final: bool) -> Verdict:
        """Judge ``(https://… "title")`` behind the text of a link, that begins at ``at``."""
        return self._judge(_INLINE, text, at, _begin(text, at), final)

    def definition(self, text: str, at: int, final: bool) -> Verdict:
        """Judge ``: https://… "title"`` behind the label of a reference, that begins at ``at``."""
        return self._judge(_DEFINITION, text, at, _begin(text, at), final)

    def _judge(self, form: re.Pattern[str], text: str, at: int, begin: int, final: bool, whole: bool = True) -> Verdict:
        leads = self._leads(text, begin, final)
        if leads != "yes":
            return leads
        window = text[at : at + MAX_ADDRESS + _AHEAD]
        found = form.match(window)
        complete = final or len(window) == MAX_ADDRESS + _AHEAD or "\n" in window
        if not complete and (found is None or found.end() + _AHEAD > len(window)):
            return "more"
        if found is None or found.end() > MAX_ADDRESS:
            return "no"
        tail = "".join(part or "" for part in found.groupdict().values())
        joint = _JOINT.search(tail) if whole else _START.match(tail)
        if joint is not None and _ANOTHER.search(tail, joint.start()):
            return "no"
        return at + found.end()

    def _leads(self, text: str, begin: int, final: bool) -> Literal["yes", "no", "more"]:
        scheme = text[begin : begin + len(_SCHEME)].lower()
        if scheme != _SCHEME:
            return "more" if not final and begin + len(scheme) == len(text) and _SCHEME.startswith(scheme) else "no"
        host = _RUN.match(text, begin + len(_SCHEME))
        assert host is not None
        if host.end() == len(text) and not final and len(host.group()) <= _MAX_HOST:
            return "more"
        # The full stop of a sentence is none of the name.
        return "yes" if host.group().rstrip(".") in self else "no"


def _begin(text: str, at: int) -> int:
    lead = _LEAD.match(text, at + 1)
    assert lead is not None
    return lead.end()
