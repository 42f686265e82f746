"""Names that were meant for Relay and are no settings: a slip of the keyboard must not leave a default in force unseen.

In ``.env`` every name is meant for Relay. In a process environment and among credentials most are not, so that only
one which is another spelling of a setting is told. A name is repeated only where it cannot be a secret that somebody
put in a name's place: another spelling of a setting, or words in capital letters, several joined by underscores.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Final

from relay.settings.model import FIELDS, SECRETS

NAMES: Final = frozenset(FIELDS) | {f"{name}_FILE" for name in SECRETS}
"""Every name that means something."""
IGNORED: Final = "names that are no settings"
"""How the sentence about other names begins."""

MOST_TOLD: Final = 10
_ALIKE: Final = 0.87
_WORD_ALIKE: Final = 0.6
_SHAPE: Final = re.compile(r"[A-Za-z0-9_]{3,64}", re.ASCII)
_WORDS: Final = re.compile(r"(?=.{1,64}\Z)(?:[A-Z]{1,12}|[A-Z]{1,20}(?:_[A-Z0-9]{1,20})+)", re.ASCII)
_OURS: Final = re.compile(r"RELAY_[A-Z0-9_]{0,58}|relay_[a-z0-9_]{0,58}", re.ASCII)
_NUMBER: Final = re.compile(r"_?[0-9]+", re.ASCII)


def meant(name: str) -> str:
    """Return the setting that a name is a slip of; empty when it is none, or is a setting itself.

    A slip is another case, other underscores, or the same number of words with a few characters wrong: ``LOGLEVEL``,
    ``AI_MODLE``. Words or numbers more or less are other names (``TEST_DATABASE_URL``, ``DATABASE_URL_2``), but for a
    secret with a slip that lacks an inner word as well: ``CHAT_KEYY`` for ``CHAT_API_KEY``.
    """
    if name in NAMES or not _SHAPE.fullmatch(name):
        return ""
    upper, bare = name.upper(), _bare(name)
    near = [setting for setting in NAMES if _bare(setting) == bare]
    near = near or [setting for setting in NAMES if _is_slip(upper, setting)]
    near = near or [secret for secret in SECRETS if any(_is_slip(upper, short) for short in _shortened(secret))]
    return max(sorted(near), key=lambda setting: _likeness(upper, setting), default="")


def slip(name: str, place: str) -> str:
    """Return what to tell about a name among others' names: nothing unless it is a slip."""
    return f"{name}, did you mean {close}? ({place})" if (close := meant(name)) else ""


def stranger(name: str, value: str | None, place: str) -> str:
    """Return what to tell about a name among Relay's own that is none of them; without a value it may be one itself."""
    if value is None:
        return f"one without = ({place})"
    if not value.strip("="):  # a secret in base64 or base32, whose padding was read as a value
        return f"one that looks like no name ({place})"
    told = f"{name} ({place})" if _WORDS.fullmatch(name) else f"one that looks like no name ({place})"
    return slip(name, place) or told


def is_no_secret(name: str) -> bool:
    """Say whether a name that begins with RELAY_ is no API key: those have letters of both cases."""
    return _OURS.fullmatch(name) is not None


def sentence(told: Sequence[str]) -> str:
    """Return one sentence that tells it all, of many names the first few."""
    rest = len(told) - MOST_TOLD
    return f"{IGNORED} are ignored: {'; '.join(told[:MOST_TOLD])}{f'; and {rest} more' if rest > 0 else ''}"


def _bare(name: str) -> str:
    return name.replace("_", "").upper()


def _is_slip(name: str, setting: str) -> bool:
    if name.count("_") != setting.count("_") or _NUMBER.sub("", name) == _NUMBER.sub("", setting):
        return False
    if _likeness(name, setting) < _ALIKE:
        return False
    # In a long name a whole word may be another and the rest still be alike.
    return all(map(_is_word_slip, name.split("_"), setting.split("_")))


def _is_word_slip(word: str, other: str) -> bool:
    # Two letters that changed places are half as alike as they look.
    return sorted(word) == sorted(other) or _likeness(word, other, _WORD_ALIKE) >= _WORD_ALIKE


def _shortened(setting: str) -> Iterable[str]:
    words = setting.split("_")
    return ("_".join([*words[:place], *words[place + 1 :]]) for place in range(1, len(words) - 1))


def _likeness(name: str, setting: str, least: float = _ALIKE) -> float:
    """Return how alike two names are, 0 when that is certainly less than ``least``."""
    # The quick bounds spare most of the work: an environment has a hundred names, and there are more settings.
    matcher = SequenceMatcher(None, setting, name, autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() >= least and matcher.quick_ratio() >= least else 0.0
