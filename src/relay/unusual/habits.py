"""What a key, or a workspace, usually does: bounded counts and names, kept as one sealed record.

Days and hours are whole ones of UTC since the epoch. Whatever is added here is bounded here.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from relay.core.clock import DAY, HOUR

VOLUME_DAYS: Final = 28
"""For how long counts are kept: four weeks, so that each hour of a week has been there four times."""
KEPT_DAYS: Final = 60
"""For how long an action or a network that is not used any more stays a habit."""
MAX_ACTIONS: Final = 200
MAX_NETWORKS: Final = 128
MAX_NETWORK_DAYS: Final = 3
MAX_DENIALS: Final = 256
MAX_TOLD: Final = 64


@dataclass(slots=True)
class Habits:
    """What is known of one key with its predecessors and children, or of one workspace. Times are microseconds.

    ``since`` is when the first use was seen, ``networks_since`` when the first address was, 0 before. ``actions`` maps
    names to the day of the last use, ``networks`` to the latest days (at most three) that they were used on. ``days``
    maps days to 24 counts of actions that began, ``denied`` to the most denials within an hour. ``recent`` are the
    moments of denials in the last hour, ``told`` what was reported when.
    """

    since: int = 0
    networks_since: int = 0
    actions: dict[str, int] = field(default_factory=dict)
    networks: dict[str, list[int]] = field(default_factory=dict)
    days: dict[int, list[int]] = field(default_factory=dict)
    denied: dict[int, int] = field(default_factory=dict)
    recent: list[int] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)

    def use(self, action: str, at: int) -> bool:
        """Count an action that began and return whether it had not been used within 60 days."""
        self.since = self.since or at
        day, hour = at // DAY, at % DAY // HOUR
        counts = self.days.get(day)
        if counts is None:
            counts = self.days[day] = [0] * 24
            self._forget(day)
        counts[hour] += 1
        fresh = action not in self.actions
        if fresh and len(self.actions) >= MAX_ACTIONS:
            del self.actions[min(self.actions, key=lambda name: self.actions[name])]
        self.actions[action] = day
        return fresh

    def deny(self, at: int) -> None:
        """Count a denial."""
        self.since = self.since or at
        day = at // DAY
        if day not in self.denied:
            self._forget(day)
        self.recent = [moment for moment in self.recent if moment > at - HOUR][1 - MAX_DENIALS :]
        self.recent.append(at)
        self.denied[day] = max(self.denied.get(day, 0), len(self.recent))

    def see(self, network: str, at: int) -> bool:
        """Note a network that requests came from and return whether it had not been one within 60 days."""
        self.networks_since = self.networks_since or at
        day = at // DAY
        days = self.networks.get(network)
        if days is None:
            self._forget(day)
            if len(self.networks) >= MAX_NETWORKS:
                del self.networks[min(self.networks, key=lambda name: self.networks[name][-1])]
            self.networks[network] = [day]
            return True
        if day > days[-1]:
            self.networks[network] = [*days, day][-MAX_NETWORK_DAYS:]
        return False

    def tell(self, subject: str, at: int) -> bool:
        """Say whether ``subject`` was not reported within a day, and note that it is reported now."""
        told = self.told.get(subject)
        if told is not None and at < told + DAY:
            return False
        self.told = {name: moment for name, moment in self.told.items() if at < moment + DAY}
        if len(self.told) >= MAX_TOLD:
            return False  # whoever brings about so many reports a day is known by now
        self.told[subject] = at
        return True

    def _forget(self, day: int) -> None:
        """Drop what lies too far back, once a day."""
        self.days = {past: counts for past, counts in self.days.items() if past >= day - VOLUME_DAYS}
        self.denied = {past: count for past, count in self.denied.items() if past >= day - VOLUME_DAYS}
        self.actions = {name: last for name, last in self.actions.items() if last >= day - KEPT_DAYS}
        self.networks = {name: days for name, days in self.networks.items() if days[-1] >= day - KEPT_DAYS}

    def to_json(self) -> bytes:
        """Return what :meth:`from_json` takes; some kilobytes at most."""
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Return the habits that :meth:`to_json` wrote. Only for what was sealed: the form is not checked."""
        found: dict[str, Any] = json.loads(text)
        for name in ("days", "denied"):
            found[name] = {int(day): value for day, value in found[name].items()}
        return cls(**found)


def highest(counts: Iterable[int], rank: int) -> int:
    """Return the ``rank``-th highest count, 0 when there are fewer."""
    ordered = sorted(counts, reverse=True)
    return ordered[rank - 1] if len(ordered) >= rank else 0
