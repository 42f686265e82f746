"""Six weeks of made-up traffic of sixty keys, with planted incidents: what the rules on unusual use are measured on.

Two weeks to learn, then a month in which everything that is found outside of an incident is a false alarm, whatever its
cause: holidays and the catching up after them, overtime, travel, providers that give homes other addresses, a new
project with an action of its own, growth, a policy that is tightened, batches that start late, bursts of a build farm,
rotated keys and new colleagues. Seeded: the same seed is the same traffic.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from relay.audit.anonymous import address_block
from relay.core.clock import DAY, HOUR, MICROSECONDS, MINUTE
from relay.unusual.habits import Habits
from relay.unusual.rules import Rules, Sensitivity, Watched

START: Final = 1_893_456_000_000_000 // (7 * DAY) * (7 * DAY) + 4 * DAY
"""A Monday, 0 h UTC."""
LEARNING_DAYS: Final = 14
DAYS: Final = LEARNING_DAYS + 28
HOLIDAYS: Final = frozenset({18, 19, 37})
"""Days, from the start on, on which persons do not work."""
READS: Final = ("http.get", "crm.search", "calendar.list", "files.read")
WRITES: Final = ("email.send", "http.request", "webhook.post", "tickets.update")
DESTRUCTIVE: Final = ("files.delete", "crm.purge")
EFFECTS: Final = {
    **dict.fromkeys(READS, "read"),
    **dict.fromkeys(WRITES, "write"),
    **dict.fromkeys(DESTRUCTIVE, "destructive"),
}

Event = tuple[int, str, str, str]
"""Moment, key, what (``began``, ``denied``, ``succeeded``, ``network``), and the action or the address."""


@dataclass
class Person:
    """Or an agent: a key, where it comes from and how much it does in each hour of the six weeks."""

    name: str
    workspace: str
    kind: str
    actions: tuple[str, ...]
    homes: list[str]
    denied: float = 0.005
    counts: dict[int, int] = field(default_factory=dict)
    from_day: int = 0
    peak: int = 0
    renamed_on: tuple[int, str] | None = None


@dataclass(frozen=True)
class Incident:
    """Something planted: which rule must find it, at which key, and when."""

    kind: str
    rule: str
    key: str
    begin: int
    end: int


@dataclass(frozen=True)
class Traffic:
    """What happened, in order, and what of it was planted."""

    events: list[Event]
    incidents: list[Incident]
    workspaces: dict[str, str]
    predecessors: dict[str, str]


def traffic(seed: int) -> Traffic:
    """Return the traffic of one seed."""
    rng = random.Random(seed)
    world = _World(rng)
    keys = world.everybody()
    for person in keys:
        world.work(person)
    incidents, planted = world.incidents(keys)
    events = [event for person in keys for event in world.events_of(person)]
    workspaces = {person.name: person.workspace for person in keys}
    predecessors = {}
    for person in keys:
        if person.renamed_on is not None:
            workspaces[person.renamed_on[1]] = person.workspace
            predecessors[person.renamed_on[1]] = person.name
    return Traffic(sorted(events + planted), incidents, workspaces, predecessors)


class _World:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.offices = {f"team-{n}": self._net(20 + n) for n in range(3)}

    def _net(self, first: int) -> str:
        return f"{first}.{self.rng.randrange(256)}.{self.rng.randrange(256)}"

    def everybody(self) -> list[Person]:
        """24 persons, 20 agents around the clock, 8 batches, 4 keys of build farms, 4 that are hardly used."""
        kinds = ["person"] * 24 + ["agent"] * 20 + ["batch"] * 8 + ["bursty"] * 4 + ["rare"] * 4
        found = []
        for number, kind in enumerate(kinds):
            workspace = f"team-{number % 3}"
            actions = tuple(self.rng.sample(READS, 2) + self.rng.sample(WRITES, self.rng.choice((1, 2))))
            # A home in the pool of its provider (82.x.y.0/19, say), a hosted agent behind few fixed addresses.
            homes = [self.offices[workspace], self._net(82)] if kind == "person" else [self._net(52)]
            found.append(Person(f"key-{number:02}", workspace, kind, actions, homes))
        for person in self.rng.sample(found[:44], 3):  # colleagues and agents that come later
            person.from_day = LEARNING_DAYS + self.rng.randrange(10)
        for person in self.rng.sample(found[24:52], 3):
            person.renamed_on = (LEARNING_DAYS + self.rng.randrange(20), person.name + "-next")
        return found

    def work(self, person: Person) -> None:
        """Decide how much the key does in each hour."""
        rng = self.rng
        rate = math.exp(rng.uniform(math.log(2), math.log(30)))
        growth = rng.choice((0.0, 0.0, 0.03, 0.08))
        project = LEARNING_DAYS + rng.randrange(4, 20) if rng.random() < 0.05 else DAYS
        begins = rng.randrange(7, 10)
        for day in range(person.from_day, DAYS):
            factor = (1 + growth) ** (day / 7) * (2.0 if day >= project else 1.0)
            for hour, mean in self._hours(person, day, begins):
                count = _poisson(rng, mean * rate * factor)
                if count:
                    person.counts[day * 24 + hour] = person.counts.get(day * 24 + hour, 0) + count
        person.peak = max(person.counts.values(), default=1)
        if project < DAYS:
            person.actions = (*person.actions, "project.step")

    def _hours(self, person: Person, day: int, begins: int) -> Iterator[tuple[int, float]]:
        """Yield the hours of a day in which the key works, with how much, in its own rate."""
        if person.kind == "agent":
            for hour in range(24):
                yield hour, 1.0 + 0.6 * math.sin((hour - 8) / 24 * 2 * math.pi)
        elif person.kind == "person":
            yield from self._office_hours(day, begins)
        elif person.kind == "batch" and day % 7 == 6:
            late = self.rng.choice((0, 0, 0, 1, 5))
            yield 2 + late, 30.0 * (1.3 if day // 7 == 4 else 1.0)
        elif person.kind == "bursty" and day % 7 < 5:
            for hour in range(8, 20):
                yield hour, self.rng.paretovariate(1.8) * 0.5
        elif person.kind == "rare" and self.rng.random() < 0.3:
            yield self.rng.randrange(8, 18), 0.2

    def _office_hours(self, day: int, begins: int) -> Iterator[tuple[int, float]]:
        if day % 7 >= 5 or day in HOLIDAYS or self.rng.random() < 0.04:
            return
        busy = 1.5 if day - 1 in HOLIDAYS or (day - 3 in HOLIDAYS and day % 7 == 0) else 1.0
        for hour in range(begins, begins + 9):
            yield hour, busy * (0.3 if hour == begins + 4 else 1.0)
        if self.rng.random() < 0.05:
            for hour in range(20, 23):
                yield hour, 0.7

    def events_of(self, person: Person) -> Iterator[Event]:
        """Yield what the key does, with where from."""
        rng, home, trip = self.rng, f"{person.homes[-1]}.7", (-1, "")
        tightened = LEARNING_DAYS + rng.randrange(28) if rng.random() < 0.03 else -1
        for slot, count in sorted(person.counts.items()):
            day, begin = slot // 24, START + slot * HOUR
            key = person.name
            if person.renamed_on is not None and day >= person.renamed_on[0]:
                key = person.renamed_on[1]
            if person.kind == "person":
                if rng.random() < 0.03:  # the provider gives the home another address of its pool
                    a, b, c = person.homes[1].split(".")
                    home = f"{a}.{b}.{int(c) // 32 * 32 + rng.randrange(32)}.{rng.randrange(1, 255)}"
                if trip[0] != day:
                    trip = (day, f"{self._net(90)}.9" if rng.random() < 0.006 else "")
                at_home = day % 5 in (1, 3) or slot % 24 >= 20
                address = trip[1] or (home if at_home else f"{person.homes[0]}.{rng.randrange(1, 255)}")
            else:
                address = home
            yield begin, key, "network", address
            denied = 0.15 if day == tightened else person.denied
            for _ in range(count):
                at = begin + rng.randrange(HOUR - MINUTE) + 1
                action = self._action(person, day)
                if rng.random() < denied:
                    yield at, key, "denied", action
                else:
                    yield at, key, "began", action
                    yield at + MICROSECONDS, key, "succeeded", action

    def _action(self, person: Person, day: int) -> str:
        known = person.actions
        if known[-1] == "project.step" and day < LEARNING_DAYS + 6:
            known = known[:-1]
        return known[min(int(self.rng.expovariate(1.2)), len(known) - 1)]

    def incidents(self, keys: list[Person]) -> tuple[list[Incident], list[Event]]:
        """Return what is planted: four of each kind, each at a key of its own."""
        rng = self.rng
        old = [one for one in keys if one.from_day == 0 and one.renamed_on is None and one.kind != "rare"]
        persons = [one for one in old if one.kind == "person"]
        rng.shuffle(persons)
        others = [one for one in old if one.kind != "person"]
        rng.shuffle(others)
        found: list[Incident] = []
        events: list[Event] = []
        plans = (
            (_stolen, persons[:4]),
            (_exfiltration, persons[4:8]),
            (_destructive, [*persons[8:10], *others[:2]]),
            (_probing, [*persons[10:12], *others[2:4]]),
            (_burst, [*persons[12:14], *others[4:6]]),
            (_neighbour, [one for one in others[6:] if one.kind == "agent"][:4]),
            (_skimming, [one for one in others[6:] if one.kind == "agent"][4:8]),
        )
        for plan, chosen in plans:
            for person in chosen:
                day = LEARNING_DAYS + rng.randrange(1, 26)
                incident, more = plan(rng, person, START + day * DAY)
                found.append(incident)
                events.extend(more)
        return found, events


def _stolen(rng: random.Random, person: Person, day: int) -> tuple[Incident, list[Event]]:
    """Somebody uses a stolen key at night, from elsewhere, and does nothing else that is odd."""
    begin = day + rng.randrange(1, 4) * HOUR
    events: list[Event] = [(begin, person.name, "network", f"185.{rng.randrange(256)}.{rng.randrange(256)}.66")]
    events += _uses(rng, person, begin, 30 * MINUTE, rng.randrange(3, 15))
    return Incident("stolen key, new network, at night", "new_network", person.name, begin, begin + HOUR), events


def _neighbour(rng: random.Random, person: Person, day: int) -> tuple[Incident, list[Event]]:
    """Somebody uses an agent's key from another machine of the same hosting provider."""
    begin = day + rng.randrange(24) * HOUR
    a, b, c = person.homes[0].split(".")
    events: list[Event] = [(begin, person.name, "network", f"{a}.{b}.{(int(c) + rng.randrange(1, 255)) % 256}.66")]
    events += _uses(rng, person, begin, 30 * MINUTE, rng.randrange(3, 15))
    return Incident("stolen key, same provider", "new_network", person.name, begin, begin + HOUR), events


def _skimming(rng: random.Random, person: Person, day: int) -> tuple[Incident, list[Event]]:
    """For two days a busy agent does six tenths more than it does anyway: within what these rules take for usual."""
    events: list[Event] = []
    for hour in range(48):
        usual = person.counts.get((day - START) // HOUR + hour, 0)
        events += _uses(rng, person, day + hour * HOUR, HOUR - MINUTE, round(usual * 0.6))
    return Incident("skimming", "volume", person.name, day, day + 2 * DAY), events


def _exfiltration(rng: random.Random, person: Person, day: int) -> tuple[Incident, list[Event]]:
    """For two days, around the clock and from where the key always is, no hour much busier than its busiest one."""
    rate = max(15, round(person.peak * rng.uniform(0.7, 1.0)))
    events: list[Event] = []
    for hour in range(48):
        events += _uses(rng, person, day + hour * HOUR, HOUR - MINUTE, rate)
    return Incident("slow exfiltration", "volume", person.name, day, day + 2 * DAY), events


def _burst(rng: random.Random, person: Person, day: int) -> tuple[Incident, list[Event]]:
    """A few minutes in which a key does several times what its busiest hour ever held."""
    begin = day + rng.randrange(24) * HOUR
    count = max(120, round(person.peak * rng.uniform(2.5, 6)))
    return Incident("burst", "volume", person.name, begin, begin + 2 * HOUR), _uses(
        rng, person, begin, 25 * MINUTE, count
    )


def _probing(rng: random.Random, person: Person, day: int) -> tuple[Incident, list[Event]]:
    """Somebody tries what a policy lets through, until something goes through."""
    begin, tries = day + rng.randrange(24) * HOUR, rng.randrange(15, 40)
    events: list[Event] = []
    for number in range(tries):
        events.append((begin + number * 30 * MICROSECONDS, person.name, "denied", rng.choice(WRITES)))
    at = begin + tries * 30 * MICROSECONDS
    events += [(at, person.name, "began", person.actions[0]), (at + 1, person.name, "succeeded", person.actions[0])]
    return Incident("probing", "denials_then_success", person.name, begin, begin + 2 * HOUR), events


def _destructive(rng: random.Random, person: Person, day: int) -> tuple[Incident, list[Event]]:
    """A key destroys something for the first time."""
    at, action = day + rng.randrange(24 * 60) * MINUTE, rng.choice(DESTRUCTIVE)
    events = [(at, person.name, "began", action), (at + 1, person.name, "succeeded", action)]
    return Incident("first destructive action", "first_use", person.name, at, at + HOUR), events


def _uses(rng: random.Random, person: Person, begin: int, length: int, count: int) -> list[Event]:
    events: list[Event] = []
    for _ in range(count):
        at, action = begin + rng.randrange(1, length), person.actions[0]
        events += [(at, person.name, "began", action), (at + 1, person.name, "succeeded", action)]
    return events


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > 40:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count


@dataclass
class Measured:
    """What the rules made of some traffic: what was found of each kind of incident, and what else was reported."""

    events: int = 0
    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(default_factory=Counter)
    delays: list[int] = field(default_factory=list)

    def add(self, other: "Measured") -> None:
        """Take in what was measured on another seed."""
        self.events += other.events
        self.planted += other.planted
        self.found += other.found
        self.false += other.false
        self.delays += other.delays


def measure(seed: int, sensitivity: Sensitivity) -> Measured:
    """Run the rules over the traffic of one seed, as the detector does, without a database."""
    made = traffic(seed)
    rules = Rules(sensitivity, EFFECTS)
    keys: dict[str, Watched] = {}
    workspaces: dict[str, Watched] = {}
    reported: list[tuple[str, str, str, int]] = []
    for at, name, what, about in made.events:
        workspace = made.workspaces[name]
        key = keys.setdefault(made.predecessors.get(name, name), Watched(Habits(), "key"))
        beside = workspaces.setdefault(workspace, Watched(Habits(), "workspace"))
        if what == "network":
            found = rules.network(key, beside, address_block(about), at)
        else:
            found = rules.action(key, beside, what, about, at)
        reported += [(one.rule, name if one.subject == "key" else "", workspace, at) for one in found]
    return _judged(made, reported)


def _judged(made: Traffic, reported: list[tuple[str, str, str, int]]) -> Measured:
    result = Measured(events=len(made.events))
    explained: set[int] = set()
    for one in made.incidents:
        result.planted[one.kind] += 1
        about = [
            (number, rule, at)
            for number, (rule, key, workspace, at) in enumerate(reported)
            if one.begin <= at <= one.end and (key == one.key or (not key and workspace == made.workspaces[one.key]))
        ]
        explained.update(number for number, _, _ in about)
        hits = [at for number, rule, at in about if rule == one.rule and reported[number][1]]
        if hits:
            result.found[one.kind] += 1
            result.delays.append(min(hits) - one.begin)
    for number, (rule, _, _, _) in enumerate(reported):
        if number not in explained:
            result.false[rule] += 1
    return result
