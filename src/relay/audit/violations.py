"""Security violations: what must not happen and did. Each is one audit event, and its tag says of which kind it is.

Whoever counts violations or tells others of them asks :func:`violation_of`, so that there is one list of them.
"""

from typing import Any, Final, NamedTuple

from relay.audit.record import event
from relay.core.event import EventDraft
from relay.telemetry.catalogue import VIOLATIONS

TAGS_OF_VIOLATIONS: Final[dict[str, str]] = {
    "audit_log_broken": "audit:log:broken",
    "honey_action_used": "identity:honey:action_used",
    "honey_key_used": "identity:honey:key_used",
    "key_leaked": "identity:key:leaked",
    "late_outcome": "gate:action:late_outcome",
    "many_keys_one_address": "identity:address:many_keys",
    "revoked_key_used": "identity:key:revoked_used",
}
"""The audit tag of each kind that is recorded."""

_KINDS: Final = {tag: kind for kind, tag in TAGS_OF_VIOLATIONS.items()}


class Violation(NamedTuple):
    """A kind of the catalogue of metrics, and how grave it is: warning or critical."""

    kind: str
    severity: str


def violation(
    kind: str,
    *,
    workspace_id: str,
    target: str,
    principal: str = "",
    request_id: str = "",
    action: str = "",
    details: dict[str, Any] | None = None,
) -> EventDraft:
    """Return the draft of a violation that happens now; KeyError for a kind that there is not.

    ``target`` is what it is about, an id. What may be said to nobody else goes into ``details``.
    """
    return event(
        TAGS_OF_VIOLATIONS[kind],
        workspace_id=workspace_id,
        principal=principal,
        request_id=request_id,
        target=target,
        action=action,
        details=details,
    )


def violation_of(tag: str) -> Violation | None:
    """Return what an audit event of this tag is, None where it is no violation."""
    kind = _KINDS.get(tag)
    return None if kind is None else Violation(kind, VIOLATIONS[kind])
