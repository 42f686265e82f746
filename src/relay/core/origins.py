"""Where the parameters of a step came from, as policy is told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Origins:
    """For each kind of source the names of a step's top-level parameters that hold something from it.

    ``user``: the caller's own words; ``context``: data that the caller declared as such; ``result``: a result that
    holds nothing but Relay's own facts; ``untrusted``: content from outside, or what may be; ``attachment``: what a
    file may have said; ``model``: it stands in nothing that entered the conversation. A parameter that was put
    together from several sources is in several sets, so that the one thing which says "the caller's own words and
    nothing else" is to be in ``user`` and in no other.
    """

    user: frozenset[str] = _NONE
    context: frozenset[str] = _NONE
    result: frozenset[str] = _NONE
    untrusted: frozenset[str] = _NONE
    attachment: frozenset[str] = _NONE
    model: frozenset[str] = _NONE

    def sets(self) -> dict[str, list[str]]:
        """Return the sets by name as sorted lists, the empty ones too."""
        return {label: sorted(getattr(self, label)) for label in LABELS}

    def spread(self, names: Iterable[str]) -> Self:
        """Return origins for parameters that were made of these in a way that is not known: each is in every set that
        has anything in it.
        """
        every = frozenset(names)
        return type(self)(**{label: every if getattr(self, label) else _NONE for label in LABELS})

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[str]]) -> Self:
        """Return what :meth:`sets` was made of; a set that is not given is empty. TypeError for an unknown one."""
        return cls(**{label: frozenset(names) for label, names in sets.items()})


LABELS: Final = tuple(part.name for part in fields(Origins))
"""The kinds of sources, as policies call them."""
