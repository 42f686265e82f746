"""The catalogue of event types: what leads to each, and what its ``data`` holds.

An event is sent because an audit event was recorded: one with the tag, and where one is named the outcome, of a
:class:`Source`. Data is thin: ids, states and digests, from which a receiver that may see more asks the API for it. It
holds no parameters, results, reasons in the words of others, or addresses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from relay.audit.violations import TAGS_OF_VIOLATIONS, violation_of
from relay.core.clock import iso
from relay.core.event import EventDraft
from relay.telemetry.catalogue import UNUSUAL

ANY: Final = "*"
RECEIVED: Final = "webhook.received"
OF_SENDER: Final = f"{RECEIVED}:"
"""Before a sender's own type, or a prefix of such types: asks only for what was received of that type."""


@dataclass(frozen=True, slots=True)
class Source:
    """An audit tag that leads to an event; with ``outcome`` only when the audit event has that outcome."""

    tag: str
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of ``data``: its JSON Schema, an example, and where its value is found.

    A member that is not ``required`` is left out where the value is None or empty.
    """

    name: str
    schema: dict[str, Any]
    example: Any
    of: Callable[[EventDraft], Any]
    required: bool = True


@dataclass(frozen=True, slots=True)
class EventType:
    """A type of event. Without a source it is sent by a request of its own (the test event).

    Of a type that is ``noticed`` only those audit events are told of that carry a notice.
    """

    name: str
    description: str
    sources: tuple[Source, ...]
    members: tuple[Member, ...]
    noticed: bool = False

    def data(self, draft: EventDraft) -> dict[str, Any]:
        """Return the event's ``data``."""
        found = ((member, member.of(draft)) for member in self.members)
        return {member.name: value for member, value in found if member.required or value not in (None, "")}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the whole body."""
        data = {
            "type": "object",
            "properties": {member.name: member.schema for member in self.members},
            "required": [member.name for member in self.members if member.required],
        }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name,
            "description": self.description,
            "type": "object",
            "properties": {"type": {"const": self.name}, "timestamp": _TIME, "data": data},
            "required": ["type", "timestamp", "data"],
        }

    def example(self) -> dict[str, Any]:
        """Return a body as it may be sent."""
        data = {member.name: member.example for member in self.members}
        return {"type": self.name, "timestamp": iso(1_893_456_000_000_000), "data": data}


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_TIME: Final[dict[str, Any]] = {"type": "string", "format": "date-time"}
_DIGEST: Final[dict[str, Any]] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def _id(kind: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{kind}_[0-9a-f]{{32}}$"}


def _example_id(kind: str) -> str:
    return f"{kind}_" + "0190a1b2c3d4" + "00112233445566778899"


def _target(name: str, kind: str) -> Member:
    return Member(name, _id(kind), _example_id(kind), lambda draft: draft.target)


def noted(name: str, schema: dict[str, Any], example: Any, *, required: bool = True) -> Member:
    """Return a member whose value whoever records the audit event puts into its ``notice``."""
    return Member(name, schema, example, lambda draft: (draft.notice or {}).get(name), required)


def status(value: str) -> Member:
    """Return the member ``status`` of a type that says one thing only."""
    return Member("status", {"const": value}, value, lambda _: value)


WHO: Final = (
    Member("workspace_id", _TEXT, "default", lambda draft: draft.workspace_id),
    Member("principal", _TEXT, _example_id("key"), lambda draft: draft.principal, required=False),
    Member("request_id", _TEXT, _example_id("req"), lambda draft: draft.request_id, required=False),
    Member("audit_event_id", _id("aud"), _example_id("aud"), lambda draft: draft.id),
)
"""Where, by whom, in which request, and the audit event that says the same: what every type has."""

_ACTION: Final = (
    Member("action", _TEXT, "email.send", lambda draft: draft.action),
    Member("digest", _DIGEST, "0" * 64, lambda draft: draft.digest),
)
_OF_RUN: Final = (
    noted("run_id", _id("run"), _example_id("run"), required=False),
    noted("step_id", _TEXT, "s1", required=False),
)
_DECIDED: Final = ("approved", "denied", "expired", "withdrawn", "cancelled")
_DECISION: Final = Member("status", {"enum": list(_DECIDED)}, "approved", lambda draft: draft.tag.rpartition(":")[2])
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_APPROVAL: Final = (
    _target("approval_id", "apr"),
    noted("attempt_id", _id("att"), _example_id("att")),
    noted("requested_by", _TEXT, _example_id("key")),
)


_TOLD: Final = {kind: tag for kind, tag in TAGS_OF_VIOLATIONS.items() if kind != "many_keys_one_address"}
"""The violations that are of a workspace; keys that strangers make up belong to none."""


def _violation_kind(draft: EventDraft) -> str:
    found = violation_of(draft.tag)
    return "" if found is None else found.kind


def _severity(draft: EventDraft) -> str:
    found = violation_of(draft.tag)
    return "" if found is None else found.severity


def _ended(outcome: str, description: str, *more: Source) -> EventType:
    members = (_target("attempt_id", "att"), *_ACTION, status(outcome), *_OF_RUN, *WHO)
    return EventType(f"action.{outcome}", description, (Source("gate:action:outcome", outcome), *more), members)


def _run(outcome: str, description: str) -> EventType:
    members = (_target("run_id", "run"), status(outcome), *WHO)
    return EventType(f"run.{outcome}", description, (Source("runs:run:finished", outcome),), members)


def _budget(what: str, description: str) -> EventType:
    members = (
        noted("budget_id", _id("bud"), _example_id("bud")),
        noted("measure", _TEXT, "actions"),
        noted("limit", _COUNT, 100),
        noted("used", _COUNT, 80 if what == "nearly_used" else 100),
        noted("resets_at", _TIME, "2030-01-02T00:00:00.000000Z"),
    )
    return EventType(f"budget.{what}", description, (Source(f"policy:budget:{what}"),), (*members, *WHO))


def _kill_switch(turn: str, description: str) -> EventType:
    member = Member("scope", _TEXT, "workspace", lambda draft: draft.target)
    return EventType(f"kill_switch.{turn}", description, (Source(f"policy:kill_switch:{turn}"),), (member, *WHO))


def _key(what: str, description: str, *members: Member) -> EventType:
    source = Source(f"identity:key:{what}")
    return EventType(f"key.{what}", description, (source,), (_target("key_id", "key"), *members, *WHO))


CATALOGUE: Final[tuple[EventType, ...]] = (
    _ended("succeeded", "An action succeeded."),
    _ended("failed", "An action failed; nothing happened outside, or what happened is known."),
    _ended("unknown", "Nobody knows whether an action took effect.", Source("gate:attempt:swept")),
    EventType(
        "action.denied",
        "An action was refused before it ran.",
        (Source("gate:action:denied"),),
        (
            *_ACTION,
            status("denied"),
            Member("preview_id", _id("prv"), _example_id("prv"), lambda draft: draft.target or None, required=False),
            *_OF_RUN,
            *WHO,
        ),
    ),
    EventType(
        "approval.requested",
        "A step waits for a person to approve it.",
        (Source("approvals:request:made"),),
        (
            *_APPROVAL,
            *_ACTION,
            noted("approvers", _COUNT, 1),
            noted("expires_at", _TIME, "2030-01-02T00:00:00.000000Z"),
            *_OF_RUN,
            *WHO,
        ),
    ),
    EventType(
        "approval.decided",
        "A request for approval has ended: approved, denied, expired, withdrawn, or cancelled.",
        tuple(Source(f"approvals:request:{what}") for what in _DECIDED),
        (*_APPROVAL, *_ACTION, _DECISION, *_OF_RUN, *WHO),
    ),
    _budget("nearly_used", "80 % of a budget are used; sent once a day."),
    _budget("exhausted", "A budget is used up, or has too little left for what was asked; sent once a day."),
    _kill_switch("on", "The kill switch was turned on."),
    _kill_switch("off", "The kill switch was turned off; what it stopped may run again."),
    EventType(
        "run.created",
        "A plan's steps were accepted for execution.",
        (Source("runs:run:created"),),
        (_target("run_id", "run"), status("queued"), *WHO),
    ),
    _run("succeeded", "Every step of a run succeeded."),
    _run("failed", "A step of a run failed, and the rest was cancelled."),
    _run("cancelled", "A run was cancelled before its end."),
    _run("unknown", "Nobody knows whether a step of a run took effect; the rest was cancelled."),
    _key("created", "An API key was made."),
    _key("rotated", "An API key got a successor and an end date."),
    _key("revoked", "An API key was revoked."),
    _key(
        "quarantined",
        "An API key was put into quarantine: it opens nothing until a person releases it.",
        noted("reason", {"enum": ["by_person", "honey_action_used", "honey_key_used"]}, "honey_action_used"),
    ),
    _key("released", "An API key was released from quarantine."),
    _key(
        "expiring",
        "An API key ends soon: sent once 14 days before its end and once 3 days before.",
        noted("expires_at", _TIME, "2030-01-15T00:00:00.000000Z"),
        noted("days_left", {"type": "integer", "minimum": 0, "maximum": 14}, 14),
    ),
    EventType(
        "security.violation",
        "Something that must not happen did: an outcome came after its attempt had been given up (`late_outcome`), "
        "a revoked key was used (`revoked_key_used`), a live key was reported as leaked and revoked (`key_leaked`), a "
        "honey key or a honey action was used (`honey_key_used`, `honey_action_used`), or the audit log does not hold "
        "(`audit_log_broken`). `subject` is the key, the attempt, or the number of the event.",
        tuple(map(Source, _TOLD.values())),
        (
            Member("kind", {"enum": sorted(_TOLD)}, "revoked_key_used", _violation_kind),
            Member("severity", {"enum": ["critical", "warning"]}, "warning", _severity),
            Member("subject", _TEXT, _example_id("key"), lambda draft: draft.target),
            *WHO,
        ),
    ),
    EventType(
        "security.unusual_use",
        "A key, or all keys of a workspace together, were used as they had not been in their last weeks. The audit "
        "event explains it in its details.",
        tuple(
            Source(f"unusual:{subject}:{rule}")
            for subject, rules in (("key", UNUSUAL), ("workspace", ("volume",)))
            for rule in rules
        ),
        (
            noted("rule", {"enum": list(UNUSUAL)}, "new_network"),
            noted("key_id", _id("key"), _example_id("key"), required=False),
            Member("action", _TEXT, "email.send", lambda draft: draft.action, required=False),
            noted("occurred_at", _TIME, "2030-01-01T00:00:00.000000Z"),
            *WHO,
        ),
    ),
    EventType(
        "secret.rotated",
        "A secret of the installation was rotated: `name` is its setting, or `pepper`, and `key` the new one's id.",
        (Source("secrets:secret:rotated"),),
        (
            noted("name", _TEXT, "OAUTH_ENCRYPTION_KEY"),
            noted("key", _TEXT, "1f2e3d4c"),
            *WHO,
        ),
    ),
    EventType(
        "secret.rotation_due",
        "A secret should be rotated: sent once 14 days before (`soon`) and once when its period has passed (`due`). "
        "`name` is its setting, `pepper`, or the receiver or endpoint of the workspace whose secret it is.",
        (Source("secrets:secret:due"),),
        (
            noted("name", _TEXT, "WEBHOOK_SIGNING_SECRET"),
            noted("state", {"enum": ["due", "soon"]}, "soon"),
            noted("due_at", _TIME, "2030-01-15T00:00:00.000000Z"),
            *WHO,
        ),
    ),
    EventType(
        "webhook.endpoint.disabled",
        "An endpoint gets no more deliveries; sent to the other endpoints.",
        (Source("webhooks:endpoint:disabled"),),
        (
            _target("endpoint_id", "end"),
            noted("reason", {"enum": ["switched_off", "gone", "failing"]}, "failing"),
            *WHO,
        ),
    ),
    EventType(
        RECEIVED,
        "A webhook arrived at one of the workspace's receivers and was verified. `payload` is what it said, where "
        "that is JSON of less than 16 KiB.",
        (Source("webhooks:event:received"),),
        (
            noted("event_id", _id("evt"), _example_id("evt")),
            noted("receiver_id", _TEXT, _example_id("rcv"), required=False),
            noted("receiver_name", _TEXT, "shop", required=False),
            noted("scheme", _TEXT, "standard"),
            noted("event_type", _TEXT, "order.paid", required=False),
            noted("unsigned", {"type": "boolean"}, False),
            noted("received_at", _TIME, "2030-01-01T00:00:00.000000Z"),
            noted("payload", {}, {"type": "order.paid", "data": {"id": 7}}, required=False),
            *WHO,
        ),
        noticed=True,
    ),
    EventType(
        "webhook.test",
        "Sent by `POST /webhooks/endpoints/{endpoint_id}/test` to that endpoint, whatever types it asks for.",
        (),
        (Member("endpoint_id", _id("end"), _example_id("end"), lambda draft: draft.target), *WHO),
    ),
)
"""Every type, in the order of the documentation."""

BY_NAME: Final = {kind.name: kind for kind in CATALOGUE}
TEST: Final = BY_NAME["webhook.test"]
_ASKED_FOR: Final = tuple(name for name in BY_NAME if name != TEST.name)
_BY_SOURCE: Final[dict[str, dict[str, EventType]]] = {}
for _kind in CATALOGUE:
    for _source in _kind.sources:
        _BY_SOURCE.setdefault(_source.tag, {})[_source.outcome] = _kind


def type_of(draft: EventDraft) -> EventType | None:
    """Return the type of event that an audit event leads to, if it does."""
    kinds = _BY_SOURCE.get(draft.tag)
    if kinds is None:
        return None
    kind = kinds.get(draft.outcome) or kinds.get("")
    return None if kind is None or (kind.noticed and draft.notice is None) else kind


def expand(wanted: list[str]) -> frozenset[str]:
    """Return the types that a filter asks for: ``*``, names, and prefixes such as ``run.*``.

    A pattern of senders' types (:data:`OF_SENDER`) stays as it is. One that fits no type asks for nothing, so that a
    stored filter survives the loss of a type.
    """
    found: set[str] = set()
    for pattern in wanted:
        if _is_of_sender(pattern):
            found.add(pattern)
        found.update(name for name in _ASKED_FOR if _fits(pattern, name))
    return frozenset(found)


def asks(pattern: str, draft: EventDraft) -> bool:
    """Say whether a pattern of senders' types fits what was received with this audit event."""
    told = (draft.notice or {}).get("event_type") or ""
    return _is_of_sender(pattern) and bool(told) and _fits(pattern.removeprefix(OF_SENDER), told)


def unknown(wanted: list[str]) -> list[str]:
    """Return the patterns of a filter that fit no type that can be asked for."""
    return [
        pattern
        for pattern in wanted
        if not (_may_fit(pattern) if _is_of_sender(pattern) else any(_fits(pattern, name) for name in _ASKED_FOR))
    ]


def _is_of_sender(pattern: str) -> bool:
    return pattern.startswith(OF_SENDER) and len(pattern) > len(OF_SENDER) and pattern.isprintable()


def _may_fit(pattern: str) -> bool:
    """Say whether a pattern of senders' types is one: ``order*`` would be taken and never fit anything."""
    asked = pattern.removeprefix(OF_SENDER)
    return asked == ANY or (asked != ".*" and ANY not in asked.removesuffix(".*"))


def _fits(pattern: str, name: str) -> bool:
    return pattern in (ANY, name) or (pattern.endswith(".*") and name.startswith(pattern[:-1]))
