"""Audit events about security as lines of the log, once they are durable: for whoever watches logs and not the chain.

The line carries what the row has in the clear, nothing of its details.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from relay.audit.violations import violation_of
from relay.core.event import EventDraft
from relay.store.writer import Tx
from relay.telemetry.security import SecurityLog

TOLD: Final[dict[str, str]] = {
    "gate:action:denied": "policy_denial",
    "identity:key:quarantined": "key_quarantined",
    "policy:kill_switch:on": "kill_switch",
    "policy:kill_switch:off": "kill_switch",
    "unusual:key:denials_then_success": "unusual_use",
    "unusual:key:first_use": "unusual_use",
    "unusual:key:new_network": "unusual_use",
    "unusual:key:volume": "unusual_use",
    "unusual:workspace:volume": "unusual_use",
}
"""The tags that are told beside those of violations, with the kind that the line says."""

_CRITICAL: Final = "critical"


class SecurityEvents:
    """Tells of the events of each transaction after its commit."""

    def __init__(self, security: SecurityLog) -> None:
        self._security = security

    def finish(self, tx: Tx, drafts: Sequence[EventDraft]) -> None:
        """Have those of these drafts told that are about security, when ``tx`` is durable."""
        told = [draft for draft in drafts if draft.tag in TOLD or violation_of(draft.tag) is not None]
        if told:
            tx.after_commit.append(partial(self._tell, told))

    def _tell(self, drafts: Sequence[EventDraft]) -> None:
        for draft in drafts:
            violation = violation_of(draft.tag)
            grave = violation is not None and violation.severity == _CRITICAL
            kind = f"violation_{violation.kind}" if violation is not None else TOLD[draft.tag]
            fields = {
                "event_id": draft.id,
                "tag": draft.tag,
                "target": draft.target,
                "action": draft.action,
                "request_id": draft.request_id,
                "principal": draft.principal,
                "workspace": draft.workspace_id,
            }
            given = {name: value for name, value in fields.items() if value}
            level = logging.ERROR if grave else logging.WARNING
            self._security.say(kind, f"{kind.replace('_', ' ')}: {draft.tag}", level=level, **given)
