"""What tests of unusual use share: a past that is written into the log, and a detector that is asked to look."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import select

from relay.audit.log import Filters
from relay.audit.record import event
from relay.core.clock import DAY
from relay.core.event import EventDraft
from relay.house import House
from relay.identity.operator import operator
from relay.store.tables import audit_events
from relay.store.unusual import PURPOSE, Sighting, note_sightings
from relay.store.writer import Tx
from relay.unusual.detector import Detector
from relay.unusual.habits import Habits
from relay.unusual.rules import Sensitivity
from relay.unusual.sightings import Sightings

ALL = frozenset({"first_use", "new_network", "volume", "denials_then_success"})
USUAL = Sensitivity(ALL, learning=14 * DAY, floor=30, percent=200, denials=10)
EFFECTS = {"files.delete": "destructive", "email.send": "write", "http.get": "read"}


def began(key: str, action: str, at: int, *, workspace: str = "default") -> EventDraft:
    """Return the event of an action that begins."""
    return _draft("gate:action:intent", key, action, at, workspace, decision="allow p@1")


def denied(key: str, action: str, at: int, *, workspace: str = "default") -> EventDraft:
    """Return the event of an action that is denied."""
    return _draft("gate:action:denied", key, action, at, workspace, decision="deny p@1")


def succeeded(key: str, action: str, at: int, *, workspace: str = "default") -> EventDraft:
    """Return the event of an action that succeeds outside."""
    return _draft("gate:action:outcome", key, action, at, workspace, outcome="succeeded")


def _draft(tag: str, key: str, action: str, at: int, workspace: str, **more: str) -> EventDraft:
    return replace(event(tag, workspace_id=workspace, principal=key, action=action, **more), occurred_at=at)


async def record(house: House, drafts: Sequence[EventDraft]) -> None:
    """Append events to the log, at whatever time they say."""
    for begin in range(0, len(drafts), 500):
        await house.database.writer.run(partial(_append, drafts[begin : begin + 500]))


def _append(drafts: Sequence[EventDraft], tx: Tx) -> None:
    for draft in drafts:
        tx.record(draft)


async def sight(house: House, key: str, block: str, at: int, *, workspace: str = "default") -> None:
    """Have a key be seen in a network."""
    await house.database.writer.run(lambda tx: note_sightings(tx, [Sighting(key, workspace, block, at)]))


def detector(house: House, sensitivity: Sensitivity = USUAL) -> Detector:
    """Return a detector as a further process would have it."""
    return Detector(house.database, house.vault, sensitivity, EFFECTS, Sightings())


async def new_key(house: House, **more: Any) -> str:
    """Return the id of a new key of workspace ``default``."""
    made, _ = await house.api_keys.create(
        operator(), workspace="default", kind="agent", scopes=["developer"], request_id="req_test", **more
    )
    return made.id


async def findings(house: House) -> list[tuple[str, str]]:
    """Return tag and target of everything that was found, in order."""
    query = select(audit_events.c.tag, audit_events.c.target).where(audit_events.c.tag.like("unusual:%"))
    return [tuple(row) for row in await house.database.reader.all(query.order_by(audit_events.c.seq))]


async def explained(house: House) -> list[dict[str, Any]]:
    """Return the details of everything that was found, newest first."""
    page = await house.audit_log.of("default").page(Filters(tag="unusual:*"), limit=50)
    return [entry.details for entry in page.entries if entry.details is not None]


async def habits(house: House, record_id: str, workspace: str = "default") -> Habits | None:
    """Return what is kept of a key or a workspace."""
    plain = await house.vault.open(workspace=workspace, purpose=PURPOSE, record_id=record_id)
    return None if plain is None else Habits.from_json(plain)
