"""Audit events: what is written down, and the draft of it before it has a place in the chain."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An audit event that waits for its place in the chain.

    Everything but ``details`` stands in the clear and for ever: ids, tags and digests only, never a secret,
    an address of a third party or a message body. ``details`` goes into an envelope that can be erased;
    the row keeps a salted commitment to it. ``notice`` is plain JSON for the workspace's webhook endpoints, sent when
    the tag is one that they can ask for; it is no part of the row and holds nothing that the row could not.
    """

    id: str
    occurred_at: int
    workspace_id: str
    principal: str
    request_id: str
    tag: str
    target: str = ""
    action: str = ""
    decision: str = ""
    digest: str = ""
    outcome: str = ""
    details: dict[str, Any] | None = field(default=None)
    notice: dict[str, Any] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """A row of the chain. ``hash`` covers every other field, ``prev_hash`` included; see ``relay.audit.chain``."""

    seq: int
    id: str
    occurred_at: int
    workspace_id: str
    principal: str
    request_id: str
    tag: str
    target: str
    action: str
    decision: str
    digest: str
    outcome: str
    commitment: str
    prev_hash: str
    hash: str
