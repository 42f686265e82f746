"""How often something may happen, and what is left of it for one caller."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``count`` times in any ``seconds`` seconds."""

    count: int
    seconds: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds < 1:
            raise ValueError("a limit allows at least one time in at least one second")


class Quota(NamedTuple):
    """What one policy has left for one caller, times in microseconds from the moment of the check.

    ``reset`` is when the next unit comes back, 0 when none is out. ``wait`` is when one more can be had: 0 as long as
    ``remaining`` is above 0.
    """

    policy: str
    limit: Limit
    remaining: int
    reset: int
    wait: int
