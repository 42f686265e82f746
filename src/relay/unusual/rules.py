"""The rules: what of an observation departs from what a key usually does, with an explanation. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_network
from typing import Any, Final, Literal

from relay.core.clock import DAY, HOUR, iso
from relay.unusual.habits import KEPT_DAYS, MAX_NETWORK_DAYS, VOLUME_DAYS, Habits
from relay.unusual.volume import Limit, limits_at

Rule = Literal["first_use", "new_network", "volume", "denials_then_success"]
Subject = Literal["key", "workspace"]
What = Literal["began", "denied", "succeeded"]

DENIALS_FACTOR: Final = 2
NETWORKS_BESIDE: Final = 2
"""From how many networks of one /16 (IPv6: /32) a key must have come for the rest of that to be no news."""
NETWORKS_A_DAY: Final = 3
"""How many new networks of one key are reported a day: whoever travels or roams is known by then."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What the rules are told by the settings: which of them hold, and what they leave alone.

    ``learning`` (microseconds) is how long a key or workspace must have been known before anything is reported of it.
    ``floor`` is how many actions an hour are never too many, ``percent`` how far above its busiest days is far,
    ``denials`` how many within an hour are never many.
    """

    rules: frozenset[str]
    learning: int
    floor: int
    percent: int
    denials: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One unusual use. ``explanation`` is a sentence with the numbers that stand in ``numbers``."""

    rule: Rule
    subject: Subject
    at: int
    explanation: str
    numbers: dict[str, Any]
    action: str = ""


@dataclass(slots=True)
class Watched:
    """Whose habits an observation is compared with, and their limits of the present hour."""

    habits: Habits
    subject: Subject
    _hour: int = 0
    _limits: tuple[Limit, Limit] | None = field(default=None)

    def limits(self, at: int, sensitivity: Sensitivity) -> tuple[Limit, Limit]:
        """Return the limits of the hour and the day of ``at``; what they stand on does not change within an hour."""
        if self._limits is None or self._hour != at // HOUR:
            self._hour = at // HOUR
            self._limits = limits_at(self.habits, at, floor=sensitivity.floor, percent=sensitivity.percent)
        return self._limits


class Rules:
    """Compares observations with habits, learns from them, and returns what departs from the habits.

    ``effects`` names the effect of each action. ``quiet_before`` is the moment before which everything only teaches:
    what happened before these rules were there is history.
    """

    def __init__(self, sensitivity: Sensitivity, effects: Mapping[str, str], *, quiet_before: int = 0) -> None:
        self._is = sensitivity
        self._effects = effects
        self._quiet_before = quiet_before

    def action(self, key: Watched, workspace: Watched, what: What, action: str, at: int) -> list[Finding]:
        """Take in that an action of a key began, succeeded or was denied."""
        if what == "began":
            return self._began(key, workspace, action, at)
        if what == "denied":
            key.habits.deny(at)
            return []
        found = self._denials(key, action, at)
        return [found] if found is not None else []

    def network(self, key: Watched, workspace: Watched, network: str, at: int) -> list[Finding]:
        """Take in that a request with a key came from a network, a /24 or a /48 as ``address_block`` gives it."""
        habits = key.habits
        beside = sum(_around(known) == _around(network) for known in habits.networks)
        elsewhere = len(workspace.habits.networks.get(network, ()))
        fresh = habits.see(network, at)
        workspace.habits.see(network, at)
        if not fresh or not self._speaks("new_network", habits.networks_since, at):
            return []
        # A further key where the workspace has come from on several days is no surprise, nor is a further address of a
        # provider that has given the key several before.
        if elsewhere >= MAX_NETWORK_DAYS or beside >= NETWORKS_BESIDE:
            return []
        for number in range(NETWORKS_A_DAY):
            if habits.tell(f"new_network:{number}", at):
                break
        else:
            return []
        known = sorted(set(habits.networks) - {network}, key=lambda name: -habits.networks[name][-1])
        text = (
            f"A request came from {network}. In the last {KEPT_DAYS} days this key was used from {len(known)} other "
            f"networks, most recently from {', '.join(known[:3])}; no other key of the workspace is known there."
        )
        return [Finding("new_network", "key", at, text, {"seen": network, "usual": known[:10], "networks": len(known)})]

    def _began(self, key: Watched, workspace: Watched, action: str, at: int) -> list[Finding]:
        known = len(key.habits.actions)
        fresh = key.habits.use(action, at)
        nobody = workspace.habits.use(action, at)
        found = []
        if fresh and self._speaks("first_use", key.habits.since, at) and key.habits.tell(f"first_use:{action}", at):
            found.append(self._first_use(key.habits, action, known, nobody, at))
        if (much := self._volume(key, at)) is not None:
            workspace.habits.tell("volume", at)
            found.append(much)
        elif (much := self._volume(workspace, at)) is not None:
            found.append(much)
        return found

    def _first_use(self, habits: Habits, action: str, known: int, nobody: bool, at: int) -> Finding:
        effect = self._effects.get(action, "unknown")
        others = "nor has any other key of the workspace" if nobody else "other keys of the workspace have"
        text = (
            f"This key ran {action} (effect: {effect}), which it had not done in the last {KEPT_DAYS} days; {others}. "
            f"It has been known since {iso(habits.since)} and has used {known} other actions."
        )
        numbers = {"seen": action, "effect": effect, "usual": sorted(set(habits.actions) - {action})[:20]}
        return Finding("first_use", "key", at, text, {**numbers, "new_to_workspace": nobody}, action)

    def _volume(self, watched: Watched, at: int) -> Finding | None:
        habits = watched.habits
        counts = habits.days[at // DAY]
        in_hour = counts[at % DAY // HOUR]
        if in_hour <= self._is.floor and sum(counts) <= self._is.floor:
            return None
        if not self._speaks("volume", habits.since, at):
            return None
        for limit, count in zip(watched.limits(at, self._is), (in_hour, sum(counts)), strict=True):
            if count > limit.limit and habits.tell("volume", at):
                return _volume_finding(watched.subject, limit, count, at)
        return None

    def _denials(self, key: Watched, action: str, at: int) -> Finding | None:
        habits, today = key.habits, at // DAY
        count = sum(1 for moment in habits.recent if at - HOUR < moment <= at)
        if count < self._is.denials or not self._speaks("denials_then_success", habits.since, at):
            return None
        usual = max((most for day, most in habits.denied.items() if day < today), default=0)
        if count <= DENIALS_FACTOR * usual or not habits.tell("denials_then_success", at):
            return None
        text = (
            f"{action} succeeded after {count} actions of this key had been denied within an hour. In the last "
            f"{VOLUME_DAYS} days there were at most {usual} denials within an hour."
        )
        habits.recent = []
        return Finding("denials_then_success", "key", at, text, {"seen": count, "usual": usual}, action)

    def _speaks(self, rule: Rule, since: int, at: int) -> bool:
        """Say whether a rule is on and has learnt for long enough to report what happens at ``at``."""
        return rule in self._is.rules and at >= self._quiet_before and since + self._is.learning <= at


def _around(network: str) -> str:
    """Return the /16 (IPv6: /32) that a network lies in, about what one provider has in one place."""
    found = ip_network(network)
    return str(found.supernet(new_prefix=16 if isinstance(found, IPv4Network) else 32))


def _volume_finding(subject: Subject, limit: Limit, count: int, at: int) -> Finding:
    whose = "This key" if subject == "key" else "The keys of this workspace together"
    window = f"the {limit.window} of {iso(at)}"
    times = "the same hours, and those beside them," if limit.window == "hour" else "the same days of the week"
    text = (
        f"{whose} began {count} actions within {window}. In {times} of the last four weeks the median was "
        f"{limit.typical:g}; {limit.busiest} within one {limit.window} were reached on three days. "
        f"Up to {limit.limit} would have been usual."
    )
    numbers = {"window": limit.window, "seen": count, "usual": round(limit.typical), "limit": limit.limit}
    return Finding("volume", subject, at, text, {**numbers, "busiest": limit.busiest})
