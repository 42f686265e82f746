"""The catalogue of event types."""

import json
import re

import pytest

from relay.audit.record import event
from relay.audit.tags import TAGS
from relay.webhooks.types import BY_NAME, CATALOGUE, TEST, EventType, asks, expand, type_of, unknown
from tests.schemas import check

KINDS = pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.name)
SECRETIVE = re.compile(r"param|result|secret|address|url|body|email|detail|reason_text|comment")


@KINDS
def test_every_tag_exists(kind: EventType) -> None:
    assert [source.tag for source in kind.sources if source.tag not in TAGS] == []
    assert kind.sources or kind is TEST


@KINDS
def test_the_example_is_as_the_schema_says_and_small(kind: EventType) -> None:
    check(kind.schema(), kind.example())
    assert len(json.dumps(kind.example())) < 4096


@KINDS
def test_data_is_thin(kind: EventType) -> None:
    assert [member.name for member in kind.members if SECRETIVE.search(member.name)] == []
    assert {"workspace_id", "audit_event_id"} <= {member.name for member in kind.members}


@KINDS
def test_a_source_leads_to_its_type_alone(kind: EventType) -> None:
    for source in kind.sources:
        assert type_of(event(source.tag, workspace_id="w", outcome=source.outcome, notice={"a": 1})) is kind
        unnoticed = type_of(event(source.tag, workspace_id="w", outcome=source.outcome))
        assert unnoticed is (None if kind.noticed else kind)


def test_names_are_unique_and_well_formed() -> None:
    assert len(BY_NAME) == len(CATALOGUE)
    assert [name for name in BY_NAME if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)] == []


def test_an_outcome_that_no_source_names_leads_nowhere() -> None:
    assert type_of(event("gate:action:outcome", workspace_id="w", outcome="odd")) is None
    assert type_of(event("gate:preview:made", workspace_id="w")) is None


def test_what_partners_rely_on_is_there() -> None:
    wanted = {
        "action.succeeded",
        "action.failed",
        "action.unknown",
        "action.denied",
        "run.created",
        "run.succeeded",
        "run.failed",
        "run.cancelled",
        "run.unknown",
        "key.created",
        "key.rotated",
        "key.revoked",
        "key.expiring",
        "security.violation",
        "approval.requested",
        "approval.decided",
        "webhook.received",
        "webhook.endpoint.disabled",
        "webhook.test",
    }
    assert wanted <= set(BY_NAME)


@pytest.mark.parametrize(
    ("pattern", "told", "fits"),
    [
        ("webhook.received:order.paid", "order.paid", True),
        ("webhook.received:order.paid", "order.paid.late", False),
        ("webhook.received:order.*", "order.paid", True),
        ("webhook.received:order.*", "order.", True),
        ("webhook.received:order.*", "orders", False),
        ("webhook.received:*", "anything", True),
        ("webhook.received:*", "", False),
        ("webhook.received:order*", "order*", True),
        ("webhook.received:order*", "orders", False),
        ("webhook.received", "order.paid", False),
        ("order.paid", "order.paid", False),
    ],
)
def test_patterns_of_senders_types(pattern: str, told: str, fits: bool) -> None:
    draft = event("webhooks:event:received", workspace_id="w", notice={"event_type": told})
    assert asks(pattern, draft) is fits
    assert asks(pattern, event("webhooks:event:received", workspace_id="w")) is False


def test_filters() -> None:
    assert expand(["*"]) == set(BY_NAME) - {"webhook.test"}
    assert expand(["run.*"]) == {name for name in BY_NAME if name.startswith("run.")}
    assert expand(["run.*", "key.created", "run.failed"]) == expand(["run.*"]) | {"key.created"}
    assert expand(["nothing", "run*", "ru.*", "run.", ""]) == frozenset()
    assert unknown(["*", "run.*", "key.created", "webhook.*"]) == []
    assert expand(["webhook.received:order.*", "webhook.received:"]) == {"webhook.received:order.*"}
    assert unknown(["webhook.received:order.paid", "webhook.received:*", "webhook.received:Größe 2"]) == []
    for wrong in ("webhook.received:", "webhook.received:a\n", "webhook.receive:a", "key.created:a", "webhook.test:a"):
        assert unknown([wrong]) == [wrong] and expand([wrong]) == frozenset()
    for wrong in ("order*", "*.paid", "order.*.paid", ".*", "*.*", "**"):
        assert unknown([f"webhook.received:{wrong}"]) == [f"webhook.received:{wrong}"]
    assert unknown(["webhook.test", "webhook.t.*"]) == ["webhook.test", "webhook.t.*"]
    assert unknown(["nothing", "run*", "run", "*.created", ""]) == ["nothing", "run*", "run", "*.created", ""]
