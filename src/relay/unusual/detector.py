"""The watch for unusual use: reads the log from where it stopped, a little at a time, and records what it finds.

Each step is one unit of work: habits, findings and the place in the log are committed together or not at all.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import uuid4

from relay.audit.record import event
from relay.core.clock import DAY, MICROSECONDS, iso, now
from relay.core.event import EventDraft
from relay.crypto.envelope import EnvelopeError
from relay.store.database import Database
from relay.store.unusual import (
    PURPOSE,
    Logged,
    LostLease,
    Place,
    Sighting,
    drop_sightings,
    first_since,
    keep_habits,
    lease_of,
    leave,
    log_size,
    logged,
    move,
    note_sightings,
    sealed_habits,
    take_lease,
    waiting_sightings,
)
from relay.store.vault import Sealed, Vault
from relay.store.writer import StoreUnavailable, Tx
from relay.unusual.habits import KEPT_DAYS, Habits
from relay.unusual.lineage import Lineage
from relay.unusual.rules import Finding, Rules, Sensitivity, Watched, What
from relay.unusual.sightings import Sightings

PASS_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.05
LEASE: Final = 60 * MICROSECONDS
MAX_EVENTS: Final = 500
MAX_SIGHTINGS: Final = 100
MAX_HABITS: Final = 25
"""How many keys one step takes in: what bounds the length of its transaction, behind which others wait."""
TAGS: Final = ("gate:action:intent", "gate:action:denied", "gate:action:outcome")

log = logging.getLogger("relay.unusual")


@dataclass(frozen=True, slots=True)
class _Step:
    """What one step takes in: events up to a place in the log, and sightings."""

    place: Place
    reached: int
    events: Sequence[Logged]
    sightings: Sequence[Sighting]
    firsts: Mapping[str, str]

    @property
    def seen(self) -> list["Sighting | Logged"]:
        """Return everything in the order of time."""
        return sorted([*self.sightings, *self.events], key=_moment)


@dataclass(frozen=True, slots=True)
class _Found:
    """A finding and the key that it is about; the workspace's own have none."""

    finding: Finding
    workspace_id: str
    key_id: str


class Detector:
    """Takes in what processes have seen and recorded. Many may run; one at a time reads.

    ``effects`` maps actions to their effects. Findings of what happened before the first start of a detector on this
    database are not reported: that is what it learns from.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        sensitivity: Sensitivity,
        effects: Mapping[str, str],
        sightings: Sightings,
    ) -> None:
        self._database = database
        self._vault = vault
        self._sensitivity = sensitivity
        self._effects = effects
        self._sightings = sightings
        self._lineage = Lineage(database.reader)
        self._holder = uuid4().hex
        self._place: Place | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look every few seconds."""
        self._task = asyncio.create_task(self._forever(), name="unusual-use")

    async def stop(self) -> None:
        """Stop looking, hand over what was seen, and give the lease back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        with suppress(StoreUnavailable):  # another process takes over when the lease ends
            await self.hand_over()
            if self._place is not None:
                await self._database.writer.run(partial(_leave, self._place))

    async def hand_over(self) -> None:
        """Write down from where keys were used, for whichever process reads."""
        while seen := self._sightings.take(MAX_SIGHTINGS):
            try:
                await self._database.writer.run(partial(_note, seen))
            except StoreUnavailable:
                self._sightings.give_back(seen)
                raise

    async def once(self) -> int:
        """Take in everything that there is by now; return how many steps it took, 0 while another process reads."""
        await self.hand_over()
        if not await self._due():
            return 0
        steps = 0
        try:
            while (step := await self._next()) is not None:
                await self._take_in(step)
                steps += 1
                await asyncio.sleep(PAUSE_SECONDS)
        except LostLease:
            self._place = None
        return steps

    async def _due(self) -> bool:
        """Take the lease where there is something to read and nobody else has it. Writes nothing otherwise."""
        reader, at = self._database.reader, now()
        found = await lease_of(reader)
        start = 0
        if found is None:
            start = await first_since(reader, at - KEPT_DAYS * DAY)
        else:
            seq, holder, lease_until = found
            if holder != self._holder and lease_until > at:
                return False
            if seq >= await log_size(reader) and not await waiting_sightings(reader, 1):
                return False
        self._place = await self._database.writer.run(partial(_take, self._holder, at, start))
        return self._place is not None

    async def _next(self) -> _Step | None:
        place, reader = self._place, self._database.reader
        if place is None:
            return None
        reached = min(await log_size(reader), place.seq + MAX_EVENTS)
        events = await logged(reader, place.seq, reached, TAGS)
        sightings = await waiting_sightings(reader, MAX_SIGHTINGS)
        if reached <= place.seq and not sightings:
            return None
        keys = {one.key_id for one in events} | {one.key_id for one in sightings}
        return _bounded(_Step(place, reached, events, sightings, await self._lineage.firsts(keys)))

    async def _take_in(self, step: _Step) -> None:
        records = {(one.workspace_id, step.firsts[one.key_id]) for one in step.seen}
        records |= {(workspace, _workspace_record(workspace)) for workspace, _ in records}
        bodies = await sealed_habits(self._database.reader, [record for _, record in records])
        found, sealed = await asyncio.to_thread(self._judge, step, sorted(records), bodies)
        drafts = [_draft(one) for one in found]

        def unit(tx: Tx) -> None:
            move(tx, step.place, step.reached, now() + LEASE)
            for habits in sealed:
                keep_habits(tx, habits)
            drop_sightings(tx, step.sightings)
            for draft in drafts:
                tx.record(draft)

        await self._database.writer.run(unit)
        self._place = Place(step.reached, step.place.began_at, step.place.fence)

    def _judge(
        self, step: _Step, records: Sequence[tuple[str, str]], bodies: Mapping[tuple[str, str], bytes]
    ) -> tuple[list[_Found], list[Sealed]]:
        """Open the habits, apply the rules in the order of time, and seal the habits again; in a thread of its own."""
        watched = {record: self._opened(record, bodies.get(record)) for record in records}
        rules = Rules(self._sensitivity, self._effects, quiet_before=step.place.began_at)
        found: list[_Found] = []
        for one in step.seen:
            key = watched[one.workspace_id, step.firsts[one.key_id]]
            workspace = watched[one.workspace_id, _workspace_record(one.workspace_id)]
            for finding in _applied(rules, key, workspace, one):
                key_id = one.key_id if finding.subject == "key" else ""
                found.append(_Found(finding, one.workspace_id, key_id))
        until = now() + KEPT_DAYS * DAY
        sealed = [
            self._vault.seal(
                watched[workspace, record].habits.to_json(),
                workspace=workspace,
                purpose=PURPOSE,
                record_id=record,
                expires_at=until,
            )
            for workspace, record in records
        ]
        return found, sealed

    def _opened(self, record: tuple[str, str], body: bytes | None) -> Watched:
        workspace, name = record
        habits = Habits()
        if body is not None:
            try:
                habits = Habits.from_json(
                    self._vault.unseal(body, workspace=workspace, purpose=PURPOSE, record_id=name)
                )
            except (EnvelopeError, AttributeError, KeyError, TypeError, ValueError) as error:
                # Also what another version wrote in another form: one record must not keep all others from being read.
                log.error("the habits of %s cannot be read and are learnt anew: %s", name, type(error).__name__)
        return Watched(habits, "workspace" if name == _workspace_record(workspace) else "key")

    async def _forever(self) -> None:
        while True:
            try:
                await self.once()
            except StoreUnavailable as error:
                log.warning("the watch for unusual use waits for the database: %s", error)
            except Exception as error:  # a defect in one look must not end all looking
                log.error("looking for unusual use failed", exc_info=error)
            await asyncio.sleep(PASS_SECONDS)


def _workspace_record(workspace_id: str) -> str:
    return f"workspace:{workspace_id}"


def _moment(one: Sighting | Logged) -> tuple[int, int]:
    return (one.seen_at, 0) if isinstance(one, Sighting) else (one.occurred_at, one.seq)


def _applied(rules: Rules, key: Watched, workspace: Watched, one: Sighting | Logged) -> Iterator[Finding]:
    if isinstance(one, Sighting):
        yield from rules.network(key, workspace, one.block, one.seen_at)
        return
    for what in _meaning(one):
        yield from rules.action(key, workspace, what, one.action, one.occurred_at)


def _meaning(one: Logged) -> Iterator[What]:
    """Yield what an audit event says; a local action's outcome is the first that is heard of it, and has a decision."""
    if one.tag == "gate:action:denied":
        yield "denied"
        return
    if one.tag == "gate:action:intent" or one.decision:
        yield "began"
    if one.outcome == "succeeded":
        yield "succeeded"


def _bounded(step: _Step) -> _Step:
    """Leave out what would bring in more keys than one step takes."""
    within: set[str] = set()
    sightings = [one for one in step.sightings if _room(within, step.firsts[one.key_id])]
    for position, one in enumerate(step.events):
        if not _room(within, step.firsts[one.key_id]):
            return _Step(step.place, one.seq - 1, step.events[:position], sightings, step.firsts)
    return _Step(step.place, step.reached, step.events, sightings, step.firsts)


def _room(within: set[str], key: str) -> bool:
    if key not in within and len(within) >= MAX_HABITS:
        return False
    within.add(key)
    return True


def _draft(one: _Found) -> EventDraft:
    finding = one.finding
    tag = f"unusual:workspace:{finding.rule}" if finding.subject == "workspace" else f"unusual:key:{finding.rule}"
    about = {"key_id": one.key_id} if one.key_id else {}
    return event(
        tag,
        workspace_id=one.workspace_id,
        target=one.key_id or one.workspace_id,
        action=finding.action,
        details={"explanation": finding.explanation, "at": iso(finding.at), **finding.numbers},
        notice={"rule": finding.rule, "occurred_at": iso(finding.at), **about},
    )


def _take(holder: str, at: int, start: int, tx: Tx) -> Place | None:
    return take_lease(tx, holder, at, at + LEASE, start)


def _leave(place: Place, tx: Tx) -> None:
    leave(tx, place)


def _note(seen: Sequence[Sighting], tx: Tx) -> None:
    note_sightings(tx, seen)
