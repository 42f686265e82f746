"""Metrics that follow the audit log: what was recorded is counted, once it is durable, and nothing else is."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from relay.audit.violations import violation_of
from relay.core.event import EventDraft
from relay.store.writer import Tx
from relay.telemetry.layout import OTHER_ACTION
from relay.telemetry.metrics import Metrics

_ENDS_ATTEMPT: Final = frozenset(
    {
        "gate:action:outcome",
        "gate:attempt:swept",
        "gate:action:recalled",
        "gate:action:cancelled",
        "policy:kill_switch:cancelled",
    }
)
_ENDS_ATTEMPT_AS: Final = {"approvals:request:denied": "denied", "approvals:request:expired": "expired"}
_TOLD_TO_EACH: Final = frozenset({"audit:log:broken"})
"""One violation that is an event of the installation, and again of each workspace that asks to be told."""
_UNUSUAL: Final = "unusual:"


class EventCounts:
    """Counts the audit events of each transaction after its commit; a unit that ran twice is counted once."""

    def __init__(self, metrics: Metrics) -> None:
        self._enabled = metrics.enabled
        self._events = metrics.counter("relay_audit_events_total")
        self._attempts = metrics.counter("relay_attempts_total")
        self._runs = metrics.counter("relay_runs_ended_total")
        self._turns = metrics.counter("relay_chat_turns_total")
        self._received = metrics.counter("relay_webhooks_received_total")
        self._violations = metrics.counter("security_violations_total")
        self._unusual = metrics.counter("relay_unusual_use_total")

    def finish(self, tx: Tx, drafts: Sequence[EventDraft]) -> None:
        """Have these drafts counted when ``tx`` is durable."""
        if self._enabled:
            tx.after_commit.append(partial(self._count, tuple(drafts)))

    def _count(self, drafts: Sequence[EventDraft]) -> None:
        self._events.add(amount=len(drafts))
        for draft in drafts:
            tag = draft.tag
            if (violation := violation_of(tag)) is not None:
                if tag not in _TOLD_TO_EACH or not draft.workspace_id:
                    self._violations.add(*violation)
            elif tag.startswith(_UNUSUAL):
                self._unusual.add(tag.rpartition(":")[2])
            elif tag in _ENDS_ATTEMPT:
                self._ended(draft.action, draft.outcome)
            elif tag in _ENDS_ATTEMPT_AS:
                self._ended(draft.action, _ENDS_ATTEMPT_AS[tag])
            elif tag == "runs:run:finished":
                self._runs.add(draft.outcome)
            elif tag == "chat:turn:finished":
                self._turns.add(draft.outcome)
            elif tag == "webhooks:event:received":
                self._received.add("false")

    def _ended(self, action: str, outcome: str) -> None:
        # What was asked for before an upgrade may end after it, by an action that is there no more.
        self._attempts.add(action if self._attempts.has(action, outcome) else OTHER_ACTION, outcome)
