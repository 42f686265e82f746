"""The keys that heads are signed with: the present one, and those before it as far as it vouches for them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from relay.crypto.signing import HeadSigner, SignatureError, verify_note
from relay.store.writer import Tx

_MARK: Final = "previous key of this log"


@dataclass(frozen=True, slots=True)
class PastKey:
    """A key that signed heads before. ``until`` is the size up to which it counts; None while it is being replaced."""

    vkey: str
    until: int | None = None

    def counts_for(self, size: int) -> bool:
        """Say whether a head over ``size`` events may be signed with it."""
        return self.until is None or size <= self.until


@dataclass(frozen=True, slots=True)
class Trust:
    """What the log is compared with beside itself: the keys its heads are signed with, and a head kept elsewhere."""

    vkeys: tuple[str, ...] = ()
    head: str | None = None
    past: tuple[PastKey, ...] = ()

    def keys_for(self, size: int) -> tuple[str, ...]:
        """Return the keys that may have signed a head over ``size`` events."""
        return (*self.vkeys, *(key.vkey for key in self.past if key.counts_for(size)))


class HeadKeys:
    """The key that signs now, and those before it. It is replaced as a whole when ``SECRET_KEY`` is rotated."""

    def __init__(self, signer: HeadSigner) -> None:
        self._state: tuple[HeadSigner, tuple[PastKey, ...]] = (signer, ())
        self.may_store: Callable[[Tx, HeadSigner], bool] = lambda _tx, _signer: True
        """Says in the transaction that stores a head whether the key that signed it still is the one that signs."""

    @property
    def signer(self) -> HeadSigner:
        """The key that signs now."""
        return self._state[0]

    def replace(self, signer: HeadSigner, past: Iterable[PastKey]) -> None:
        """Sign with another key from now on."""
        self._state = (signer, tuple(past))

    def trust(self, head: str | None = None, *more: str) -> Trust:
        """Return what the log's heads may be signed with; ``more`` are keys that somebody trusts besides."""
        signer, past = self._state
        return Trust((signer.vkey, *more), head, past)


def endorse(signer: HeadSigner, vkey: str, until: int) -> str:
    """Return the note by which a key vouches for the one before it, for heads over at most ``until`` events."""
    return signer.sign(f"{signer.name}\n{_MARK}\n{vkey}\n{until}\n")


def endorsed(notes: Iterable[str], vkey: str) -> list[PastKey]:
    """Return the keys that ``vkey`` vouches for, directly or through another one that it vouches for.

    ``notes`` are :func:`endorse`'s, the newest first. A note that none of the trusted keys signed counts for nothing,
    since whoever owns the database can put one there.
    """
    trusted, found = [vkey], []
    for note in notes:
        past = _read(note, trusted)
        if past is not None:
            trusted.append(past.vkey)
            found.append(past)
    return found


def _read(note: str, trusted: list[str]) -> PastKey | None:
    for vkey in trusted:
        try:
            lines = verify_note(note, vkey).split("\n")
        except SignatureError:
            continue
        if len(lines) == 5 and lines[0] == vkey.partition("+")[0] and lines[1] == _MARK and lines[3].isdecimal():
            return PastKey(lines[2], int(lines[3]))
    return None
