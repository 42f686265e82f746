"""The only writer of audit rows: called by the store's writer inside each transaction that recorded something."""

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import bindparam, insert, select, update

from relay.audit.chain import MAX_ROW_BYTES, canonical_row, hash_of
from relay.audit.details import PURPOSE, seal_details
from relay.audit.tags import TAGS
from relay.core.clock import now
from relay.core.event import EventDraft
from relay.core.ids import new_id
from relay.crypto.envelope import Envelopes, sealed_with
from relay.store.query import Query
from relay.store.tables import audit_events, audit_head
from relay.store.tables import envelopes as envelopes_table
from relay.store.writer import BrokenBatch, StoreUnavailable, Tx

# SQLAlchemy leaves FOR UPDATE out on SQLite, where BEGIN IMMEDIATE holds the one write lock already.
_LOCK_HEAD: Final = Query(select(audit_head.c.size, audit_head.c.hash).where(audit_head.c.one == 1).with_for_update())
_MOVE_HEAD: Final = Query(
    update(audit_head).where(audit_head.c.one == 1).values(size=bindparam("new_size"), hash=bindparam("new_hash"))
)
_INSERT: Final = Query(insert(audit_events))
_INSERT_ENVELOPE: Final = Query(insert(envelopes_table))


class EventRefused(ValueError):
    """The draft can have no place in the chain: an unknown tag, too much text, or text that is not storable."""


def event(
    tag: str,
    *,
    workspace_id: str,
    principal: str = "",
    request_id: str = "",
    target: str = "",
    action: str = "",
    decision: str = "",
    digest: str = "",
    outcome: str = "",
    details: dict[str, Any] | None = None,
    notice: dict[str, Any] | None = None,
) -> EventDraft:
    """Return the draft of an event that happens now, with a new id.

    ``workspace_id`` is empty for what concerns the installation itself; only the command line shows such events.
    """
    return EventDraft(
        id=new_id("aud"),
        occurred_at=now(),
        workspace_id=workspace_id,
        principal=principal,
        request_id=request_id,
        tag=tag,
        target=target,
        action=action,
        decision=decision,
        digest=digest,
        outcome=outcome,
        details=details,
        notice=notice,
    )


class Recorder:
    """Gives drafts their place in the chain. One instance serves a process; it keeps no state between calls."""

    def __init__(self, envelopes: Envelopes) -> None:
        self._envelopes = envelopes

    def finish(self, tx: Tx, drafts: Sequence[EventDraft]) -> None:
        """Append ``drafts`` in order, gap-free, in the transaction of ``tx``.

        The head row is locked from here to the commit, and nothing that can be done before is done under the lock.
        A draft that can have no place breaks the batch, whose units then run each by itself: only the unit that
        made it fails, with :class:`EventRefused`. :class:`~relay.store.writer.StoreUnavailable` when the head row is
        gone: what cannot be recorded must not happen.
        """
        try:
            sealed = [self._seal(draft) for draft in drafts if draft.details]
            commitments = {row["record_id"]: commitment for commitment, row in sealed}
            rows, size, last = _link(drafts, commitments, *_lock_head(tx))
        except EventRefused as error:
            raise BrokenBatch from error
        tx.many(_INSERT, rows)
        if sealed:
            tx.many(_INSERT_ENVELOPE, [row for _, row in sealed])
        tx.run(_MOVE_HEAD, new_size=size, new_hash=last)

    def _seal(self, draft: EventDraft) -> tuple[str, dict[str, Any]]:
        try:
            commitment, body = seal_details(
                self._envelopes, draft.details or {}, workspace=draft.workspace_id, event_id=draft.id
            )
        except ValueError:
            raise EventRefused(f"the details of {draft.tag!r} cannot be recorded") from None
        return commitment, {
            "purpose": PURPOSE,
            "record_id": draft.id,
            "workspace_id": draft.workspace_id,
            "kek_id": sealed_with(body),
            "body": body,
            "expires_at": None,
        }


def _lock_head(tx: Tx) -> tuple[int, str]:
    head = tx.one(_LOCK_HEAD)
    if head is None:
        raise StoreUnavailable("the audit log has lost its head row")
    size, last = head
    return int(size), str(last)


def _link(
    drafts: Sequence[EventDraft], commitments: dict[str, str], size: int, last: str
) -> tuple[list[dict[str, Any]], int, str]:
    rows: list[dict[str, Any]] = []
    for draft in drafts:
        size += 1
        row = {
            "seq": size,
            "id": draft.id,
            "occurred_at": draft.occurred_at,
            "workspace_id": draft.workspace_id,
            "principal": draft.principal,
            "request_id": draft.request_id,
            "tag": draft.tag,
            "target": draft.target,
            "action": draft.action,
            "decision": draft.decision,
            "digest": draft.digest,
            "outcome": draft.outcome,
            "commitment": commitments.get(draft.id, ""),
            "prev_hash": last,
        }
        row["hash"] = last = _hash(draft.tag, canonical_row(**row))  # type: ignore[arg-type]
        rows.append(row)
    return rows, size, last


def _hash(tag: str, canonical: str) -> str:
    if tag not in TAGS:
        raise EventRefused(f"{tag!r} is not among the audit tags")
    if len(canonical) > MAX_ROW_BYTES // 4 and len(canonical.encode(errors="replace")) > MAX_ROW_BYTES:
        raise EventRefused(f"an event of {tag!r} exceeds {MAX_ROW_BYTES} bytes")
    # PostgreSQL cannot store a NUL. Its escape may also be a backslash that stands before u0000: look again then.
    if "\\u0000" in canonical and "\0" in "".join(map(str, json.loads(canonical).values())):
        raise EventRefused(f"an event of {tag!r} holds a NUL")
    try:
        return hash_of(canonical)
    except UnicodeEncodeError:
        raise EventRefused(f"an event of {tag!r} holds a lone surrogate") from None
