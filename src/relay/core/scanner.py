"""The reader of what models and tools write: one pass in which every way to a host that is not listed is broken.

It writes what it reads, changed only where a renderer of Markdown, or a program that makes links of plain text, could
make a link, an image or an element of it. Nothing here reads link texts, tables or emphasis: what is broken is the one
place without which the construct does not exist, ``](`` of a link, ``]:`` of a definition, the scheme and the dots of
an address, the ``<`` of an element, the ``&`` or the backslash that an address could be spelt with.
"""

import re
from collections.abc import Callable
from typing import Final

from relay.core.fences import Fences
from relay.core.listed import TOP_LEVEL, Listed, Verdict
from relay.core.triggers import (
    AUTHORITY,
    BEGUN,
    BLANK,
    ESCAPED,
    FILES,
    IMAGE,
    IMAGE_BEGUN,
    IN_ADDRESS,
    IN_ADDRESS_BEGUN,
    INNER_DOT,
    LABEL,
    MAIL,
    MAIL_BEGUN,
    MAX_AUTHORITY,
    MAX_CODE,
    MAX_LABEL,
    MAX_WORD,
    REFERENCE,
    REFERENCE_BEGUN,
    RISKY,
    TAIL,
    TICKS,
    TO_HOST,
    TRIGGER,
    WORD,
    defanged,
    in_label,
    is_symbol,
    is_tag,
)

MAX_HELD: Final = 2200
"""How many characters of what comes in are held back at most until it is clear what they are."""


class Scanner:
    """Goes through a text, in pieces of any size, once.

    Each step decides about one place, looking at no more than :data:`MAX_HELD` characters ahead, and returns False
    where the text so far does not tell; it is taken again when more has come. What it decides depends on nothing but
    the text, so that it does not matter where that is cut.
    """

    def __init__(self, listed: Listed) -> None:
        self._listed = listed
        self._fences = Fences()
        self._text = ""
        self._at = 0
        self._out: list[str] = []
        self._line_begins = True
        self._in_code = False
        self._final = False
        self._last = ""
        self._label = 0  # how many characters of a label stand right before here
        self._labels = 0  # and how many labels before that one
        self._before = ""  # and what stands before them
        self._steps: dict[str, Callable[[str], bool]] = {
            "\n": self._break,
            "`": self._ticks,
            "<": self._angle,
            "&": self._reference,
            "\\": self._backslash,
            "]": self._bracket,
            "$": self._dollar,
            ".": self._dot,
            "!": self._image,
            "?": self._question,
            "/": self._slashes,
            "~": self._tildes,
        }

    def feed(self, piece: str) -> str:
        """Take a piece of text without hidden characters; return what is decided."""
        self._text = self._text[self._at :] + piece
        self._at = 0
        while self._at < len(self._text) and self._step():
            pass
        return self._taken()

    def finish(self) -> str:
        """Return the rest, and the line that closes a code block."""
        self._final = True
        rest = self.feed("")
        closing = self._fences.closing()
        return rest + ("" if self._last == "\n" or not closing else "\n") + closing

    def without_code(self) -> None:
        """Take nothing for code."""
        self._fences.unsure(for_good=True)

    def _taken(self) -> str:
        out = "".join(self._out)
        self._out.clear()
        return out

    def _step(self) -> bool:
        if self._line_begins:
            return self._line()
        if self._in_code:
            return self._code()
        found = TRIGGER.search(self._text, self._at)
        if found is None:
            return self._rest()
        self._plain(self._text[self._at : found.start()])
        word = found.group()
        return self._steps[word[0]](word) if word[0] in self._steps else self._word(word)

    # What is written.

    def _write(self, written: str, taken: int) -> None:
        """Write something in place of ``taken`` characters; a word ends here."""
        if written:
            self._out.append(written)
            self._last = written[-1]
        self._at += taken
        self._label, self._labels, self._before = 0, 0, self._last

    def _keep(self, count: int) -> bool:
        self._write(self._text[self._at : self._at + count], count)
        return True

    def _plain(self, text: str) -> None:
        """Write text without a meaning, and keep count of the label of a host that it may end in."""
        if not text:
            return
        label = 0
        for character in reversed(text[-MAX_LABEL - 1 :]):
            if not in_label(character):
                break
            label += 1
        if label == len(text):
            self._label += label
        else:
            self._label, self._labels, self._before = label, 0, text[-label - 1]
        self._out.append(text)
        self._last = text[-1]
        self._at += len(text)

    # Lines and code.

    def _line(self) -> bool:
        kind = self._fences.line(self._text, self._at, self._final)
        if kind == "more":
            return False
        self._line_begins, self._in_code = False, kind != "text"
        return True

    def _code(self) -> bool:
        end = self._text.find("\n", self._at) + 1
        self._line_begins = end > 0
        return self._keep((end or len(self._text)) - self._at)

    def _break(self, _word: str) -> bool:
        self._line_begins = True
        return self._keep(1)

    def _ticks(self, _word: str) -> bool:
        start = self._at
        window = self._text[start : start + MAX_CODE]
        runs = TICKS.finditer(window)
        run = len(next(runs).group())
        if run == len(window) and not self._ended(len(window)):
            return False
        end = 0
        if self._fences.sure:
            for found in runs:
                if found.group() == "\n" or (len(found.group()) == run and found.end() < MAX_CODE):
                    end = found.end()
                    break
            if (end in (0, len(window))) and not self._ended(len(window)):
                return False
        code = window[run : end - run] if end and window[end - 1] == "`" else None
        # In a table, what stands between two bars is read by itself.
        if code is not None and "|" not in code:
            return self._keep(end)
        self._fences.unsure(for_good=run >= 3 and code is None)
        return self._keep(run)

    def _ended(self, seen: int) -> bool:
        """Tell whether more text would not be looked at, having seen as much of it."""
        return self._final or seen >= MAX_CODE

    def _tildes(self, word: str) -> bool:
        self._fences.unsure(for_good=True)
        return self._keep(len(word))

    def _dollar(self, _word: str) -> bool:
        self._fences.unsure()
        return self._keep(1)

    # Markup.

    def _angle(self, _word: str) -> bool:
        after = self._text[self._at + 1 : self._at + 2]
        if not after and not self._final:
            return False
        if not is_tag(after):
            return self._mail()
        verdict = self._listed.angle(self._text, self._at, self._final)
        if isinstance(verdict, int):
            return self._keep(verdict - self._at)
        if verdict == "no":
            self._write("&lt;", 1)
        return verdict == "no"

    def _mail(self) -> bool:
        """Keep a bracket that begins no element, unless it makes a link of an address of mail, which can hold words."""
        if not self._final and MAIL_BEGUN.match(self._text, self._at):
            return False
        if MAIL.match(self._text, self._at) is None:
            return self._keep(1)
        self._write("&lt;", 1)
        return True

    def _question(self, _word: str) -> bool:
        """Part a question mark from an address of mail behind it, of which it would make fields of a letter."""
        if not self._final and IN_ADDRESS_BEGUN.match(self._text, self._at):
            return False
        self._write("? " if IN_ADDRESS.match(self._text, self._at) else "?", 1)
        return True

    def _reference(self, _word: str) -> bool:
        found = REFERENCE.match(self._text, self._at)
        if found is None:
            if not self._final and REFERENCE_BEGUN.match(self._text, self._at):
                return False
            return self._keep(1)
        if found[1] or found[2] in RISKY:
            self._write("&amp;", 1)
            return True
        return self._keep(1)

    def _backslash(self, _word: str) -> bool:
        after = self._text[self._at + 1 : self._at + 2]
        if not after and not self._final:
            return False
        if after in ("\\", "!"):
            return self._keep(2)
        if after == "`":
            self._fences.unsure()
        if after in ESCAPED:
            self._write("\\\\", 1)
        elif after == "<":
            return self._escaped_angle()
        else:
            self._keep(1)
        return True

    def _escaped_angle(self) -> bool:
        third = self._text[self._at + 2 : self._at + 3]
        if not third and not self._final:
            return False
        # The reference that the bracket is replaced by must not be escaped.
        self._write("", 1) if is_tag(third) else self._keep(1)
        return True

    def _bracket(self, _word: str) -> bool:
        return self._behind(1, "]", self._at + 1)

    def _behind(self, taken: int, written: str, at: int) -> bool:
        """Write what ends in ``]`` and keep what follows from making a link or a reference of it."""
        after = self._text[at : at + 1]
        if not after and not self._final:
            return False
        verdict: Verdict = at
        if after == "(":
            verdict = self._listed.inline(self._text, at, self._final)
        elif after == ":":
            verdict = self._listed.definition(self._text, at, self._final)
        if verdict == "more":
            return False
        if not isinstance(verdict, int):
            self._write(written + " ", taken)
            return True
        if verdict > at and not self._follows(verdict):
            return False
        self._write(written, taken)
        return self._keep(verdict - at)

    def _image(self, _word: str) -> bool:
        found = IMAGE.match(self._text, self._at)
        if found is None:
            if not self._final and IMAGE_BEGUN.match(self._text, self._at):
                return False
            return self._keep(2)
        verdict = self._listed.inline(self._text, found.start("to") - 1, self._final)
        if verdict == "more":
            return False
        if isinstance(verdict, int):
            return self._keep(2)
        return self._behind(len(found.group()), _removed(self._listed, found), found.end())

    # Addresses.

    def _word(self, word: str) -> bool:
        start = self._text[self._at : self._at + len(word) + 3]
        behind = start[len(word) :]
        if word.lower() == "www":
            return self._www(behind[1:2])
        if word[0] in "hHfF" and word.lower() not in ("file",):
            return self._web(word, behind)
        return self._other(word, behind[1:2])

    def _www(self, after: str) -> bool:
        if not after and not self._final:
            return False
        self._keep(3)
        self._write("[.]" if after.isalnum() else " .", 1)
        return True

    def _other(self, word: str, after: str) -> bool:
        if not after and not self._final:
            return False
        self._keep(len(word))
        if after.isalnum():
            self._write("[:]", 1)
        elif not after or after in BLANK or (word[0] in "dDfFbB" and after != "/"):
            self._keep(1)
        else:
            self._write(": ", 1)
        return True

    def _web(self, word: str, behind: str) -> bool:
        if len(behind) < 3 and not self._final and behind in "://":
            return False
        if behind == "://":
            verdict = self._listed.bare(self._text, self._at, self._final, self._last)
            if verdict == "more":
                return False
            if isinstance(verdict, int):
                return self._follows(verdict) and self._keep(verdict - self._at)
            return self._away(defanged(word) + "://", len(word) + 3)
        after = behind[1:2]
        self._write(defanged(word) if after in ("/", "\\") or after.isalnum() else word, len(word))
        return True

    def _follows(self, end: int) -> bool:
        """Look at what follows an address that stays; False where more has to come."""
        follows = WORD.match(self._text, end)
        assert follows is not None
        if follows.end() == len(self._text) and not self._final and len(follows.group()) < MAX_WORD:
            return False
        # Some renderers take all of it for the address, a backtick included, and some do not.
        if "`" in follows.group() or len(follows.group()) == MAX_WORD:
            self._fences.unsure()
        return True

    def _slashes(self, word: str) -> bool:
        after = self._text[self._at + len(word) : self._at + len(word) + 1]
        if not after and not self._final:
            return False
        if not after or after.isspace() or after in "/[]()":
            return self._keep(len(word))
        broken = "[//]" if after.isalnum() else "/ /"
        return self._away(word[2:] + broken, len(word))

    def _away(self, written: str, taken: int) -> bool:
        """Write the beginning of an address that leads away, and the host that follows so that none is found in it."""
        found = AUTHORITY.match(self._text, self._at + taken)
        assert found is not None
        # What stops at "www." does so for what comes next.
        told = found.end() + (4 if self._text[found.end() :].lower() == "www." else 0)
        if told == len(self._text) and not self._final and len(found.group()) < MAX_AUTHORITY:
            return False
        follows = self._text[found.end() : found.end() + 1].isalnum()
        host = INNER_DOT.sub("[.]", found.group())
        self._write(
            written + (host[:-1] + "[.]" if follows and host.endswith(".") else host), taken + len(found.group())
        )
        return True

    def _dot(self, _word: str) -> bool:
        found = LABEL.match(self._text, self._at + 1)
        assert found is not None
        end = found.end()
        if end + 2 > len(self._text) and not self._final:
            return False
        if not self._label and not is_symbol(self._last):
            return self._keep(1)
        if self._is_host(found.group().rstrip("_-"), self._text[end : end + 2]):
            self._out.append("[.]")
        else:
            self._out.append(".")
        self._last = self._out[-1][-1]
        self._at += 1
        self._label, self._labels = 0, self._labels + 1
        return True

    def _is_host(self, last: str, after: str) -> bool:
        """Tell whether a dot stands before the last label of what would be taken for a host."""
        if not TOP_LEVEL.fullmatch(last) or self._before in ("/", "@"):
            return False
        if self._before in (".", "-") or is_symbol(self._before):
            return True
        has_path = after[:1] in ("/", "?", "#") and after[1:] not in ("", " ", "\t", "\n")
        return has_path or self._labels > 0 or last.lower() not in FILES

    def _rest(self) -> bool:
        """Write the rest of what is there, but what may be the beginning of something."""
        end = len(self._text)
        if not self._final:
            begun = BEGUN.search(self._text, max(self._at, end - TAIL))
            end = begun.start() if begun else end
        self._plain(self._text[self._at : end])
        return self._at == len(self._text)


def _removed(listed: Listed, image: re.Match[str]) -> str:
    """Return what is written in place of an image: its words, and the host that it would have been fetched from."""
    scanner = Scanner(listed)
    scanner.without_code()
    words = (scanner.feed(image["alt"]) + scanner.finish()).strip()
    found = TO_HOST.match(image["to"])
    host = INNER_DOT.sub("[.]", found[1]) if found else ""
    told = f"{words} ({host})" if words and host else words or host
    return f"[image removed: {told}]" if told else "[image removed]"
