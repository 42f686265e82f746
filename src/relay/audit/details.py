"""Details of an event: in an envelope beside the row, bound to it by a salted commitment, erasable.

    envelope(salt (16) ‖ JSON (RFC 8785))      commitment = hex HMAC-SHA256(salt, JSON)

Deleting the envelope destroys the salt too, after which the commitment says nothing about what it covered.
"""

import json
from collections.abc import Collection
from typing import Any, Final, Literal

from sqlalchemy import select

from relay.core.canonical import canonical_json
from relay.crypto.digest import SALT_BYTES, commitment, equal, new_salt
from relay.crypto.envelope import EnvelopeError, Envelopes
from relay.store.reader import Reader
from relay.store.tables import envelopes as envelopes_table

PURPOSE: Final = "audit"
MAX_DETAILS_BYTES: Final = 65_536

DetailsState = Literal["none", "shown", "erased", "unreadable"]


class DetailsUnreadable(Exception):
    """The envelope does not open in this place, or what it holds is not what the row committed to."""


def seal_details(envelopes: Envelopes, details: dict[str, Any], *, workspace: str, event_id: str) -> tuple[str, bytes]:
    """Return the commitment for the row and the envelope beside it; ValueError for what is no JSON or too long."""
    plain = canonical_json(details)
    if len(plain) > MAX_DETAILS_BYTES:
        raise ValueError(f"the details of an event have at most {MAX_DETAILS_BYTES} bytes")
    salt = new_salt()
    body = envelopes.seal(salt + plain, workspace=workspace, purpose=PURPOSE, record=event_id)
    return commitment(salt, plain), body


def open_details(envelopes: Envelopes, body: bytes, *, workspace: str, event_id: str, committed: str) -> dict[str, Any]:
    """Return the details that the row committed to; :class:`DetailsUnreadable` when these are not they."""
    try:
        opened = envelopes.open(body, workspace=workspace, purpose=PURPOSE, record=event_id)
    except EnvelopeError as error:
        raise DetailsUnreadable(str(error)) from None
    salt, plain = opened[:SALT_BYTES], opened[SALT_BYTES:]
    if len(salt) < SALT_BYTES or not equal(commitment(salt, plain).encode(), committed.encode()):
        raise DetailsUnreadable("the details contradict the commitment")
    value: dict[str, Any] = json.loads(plain)
    return value


async def sealed_details(reader: Reader, event_ids: Collection[str]) -> dict[str, bytes]:
    """Return the envelopes of these events that still exist. The ids must come from rows already scoped."""
    if not event_ids:
        return {}
    table = envelopes_table.c
    rows = await reader.all(
        select(table.record_id, table.body).where(table.purpose == PURPOSE, table.record_id.in_(event_ids))
    )
    return {event_id: bytes(body) for event_id, body in rows}
