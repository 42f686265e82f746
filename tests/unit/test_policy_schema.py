"""The schema has every action of the catalogue, and what policies are given is what it says."""

import json
import re
from typing import Any, get_args

import pytest
from cedarpy import Decision as CedarDecision
from cedarpy import Entities, Schema, is_authorized, validate_policies

from relay.catalog import ActionSpec
from relay.core.action import Effect, Step
from relay.core.clock import MINUTE, parse_iso
from relay.core.ids import new_id
from relay.core.origins import LABELS, Origins
from relay.policy.entities import TYPES, entities_of, request_of
from relay.policy.inputs import DecisionInputs
from relay.policy.schema import CONTEXT, EFFECTS, own_fields, schema_text
from tests.docs_reading import section
from tests.policy_kit import CATALOG, INSIDE, MONDAY_NOON, OUTSIDE, SCHEMA, decided, inputs, probed, step, who

STEPS = [
    step("relay.echo", message="x"),
    step("email.send", to=[INSIDE, OUTSIDE], subject="s", text="t"),
    step("webhook.save", url="https://elsewhere.example/x", payload={"a": 1}),
    step("http.request", method="GET", url="https://elsewhere.example/"),
    probed("probe.read", recipients=[OUTSIDE], hosts=["10.0.0.1"], amount=2, label="é", urgent=True, tags=["a", "b"]),
    probed("probe.write"),
    probed("probe.destroy", amount=-(2**53) + 1),
    step("probe.blind"),
]


def strictly(asked: DecisionInputs) -> Any:
    """Ask Cedar with the schema, so that a context or an entity that is not as it says is an error."""
    entities = json.loads(str(entities_of(asked.principal, asked.action)))
    own = [entity for entity in entities if entity["uid"]["type"] != "Relay::Action"]
    context = {**asked.context, "approved": False, "approvals": 0, "other_person": False}
    return is_authorized(
        {**request_of(asked.principal, asked.action), "context": context},
        "permit(principal, action, resource);",
        Entities.from_json_str(json.dumps(own), SCHEMA.handle),
        SCHEMA.handle,
    )


def test_the_steps_are_all_actions() -> None:
    assert {spec.name for spec, _ in STEPS} == {spec.name for spec in CATALOG} == SCHEMA.actions


@pytest.mark.parametrize("what", STEPS, ids=lambda what: what[0].name)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "about", [{}, {"client": "203.0.113.9"}, {"client": "2001:db8::1%eth0"}, {"client": "nowhere"}]
)
def test_requests_are_as_the_schema_says(what: tuple[ActionSpec, Step], kind: Any, about: dict[str, Any]) -> None:
    for principal in (who(kind), who(kind, credential_id="dev", auth_method="dev", made_by=("key_a", "key_b"))):
        result = strictly(inputs(principal, what, **about))
        assert result.decision is CedarDecision.Allow, result.diagnostics.errors


def test_the_check_is_strict() -> None:
    asked = inputs(who(), STEPS[1])
    asked.context["recipient_count"] = "2"
    assert strictly(asked).decision is CedarDecision.NoDecision
    del asked.context["recipient_count"]
    assert strictly(asked).decision is CedarDecision.NoDecision


def test_it_is_text_that_cedar_reads_and_the_same_for_the_same_catalogue() -> None:
    assert schema_text(reversed(list(CATALOG))) == SCHEMA.text
    assert str(Schema.from_str(SCHEMA.text)) == str(SCHEMA.handle)
    assert schema_text([]).count("action ") == 1


def test_effects_are_those_of_the_catalogue() -> None:
    assert set(EFFECTS) == set(get_args(Effect))


@pytest.mark.parametrize("spec", list(CATALOG), ids=lambda spec: spec.name)
def test_each_action_has_its_groups_and_its_own_parameters(spec: ActionSpec) -> None:
    conditions = [f"context.params has {name}" for name in own_fields(spec.exposed)]
    conditions += [f"context.{name} == context.{name}" for name in CONTEXT if not name.endswith("?")]
    for group in (f"connector:{spec.connector}", f"effect:{spec.effect}"):
        for condition in conditions:
            text = f'permit(principal, action in Relay::Action::"{group}", resource) when {{ {condition} }};'
            assert validate_policies(text, SCHEMA.handle).validation_passed
            if condition.startswith("context.params"):
                given = next(found for found in STEPS if found[0].name == spec.name)
                assert decided(text, who("person"), given, approvals=1).effect == "allow"


def test_the_context_s_values() -> None:
    what = probed(
        "probe.write",
        recipients=[OUTSIDE, INSIDE, "al@elsewhere.example"],
        hosts=["10.0.0.1", "elsewhere.example"],
        amount=3,
        label="l",
        tags=["b", "a"],
    )
    made = new_id("key")
    at = MONDAY_NOON + 90 * MINUTE + 1_234_567
    origins = Origins(user=frozenset({"to", "cc"}), untrusted=frozenset({"text"}))
    about: dict[str, Any] = {
        "client": "::ffff:203.0.113.9",
        "untrusted_content": True,
        "at": at,
        "origins": origins,
    }
    found = inputs(who(credential_id="key_018cc2514c00" + made[-20:]), what, **about).context
    age = found["credential"].pop("age_minutes")
    # 018cc2514c00 is 2024-01-01 00:00 UTC.
    assert age == (at - 1_704_067_200_000_000) // MINUTE
    assert found == {
        "recipients": ["al@elsewhere.example", INSIDE, OUTSIDE],
        "recipient_count": 3,
        "recipient_domains": ["elsewhere.example", "internal.example"],
        "external_recipients": ["al@elsewhere.example", OUTSIDE],
        "external_recipient_count": 2,
        "hosts": ["10.0.0.1", "elsewhere.example"],
        "host_count": 2,
        "external_hosts": ["elsewhere.example"],
        "external_host_count": 1,
        "internal": False,
        "untrusted_content": True,
        "origins": {
            "user": ["cc", "to"],
            "context": [],
            "result": [],
            "untrusted": ["text"],
            "attachment": [],
            "model": [],
        },
        "client_address": {"__extn": {"fn": "ip", "arg": "203.0.113.9"}},
        "counters": {"actions_today": 0, "actions_last_hour": 0, "same_action_today": 0},
        "credential": {"kind": "api_key"},
        "params": {"amount": 3, "label": "l", "tags": ["a", "b"], "urgent": False},
        "time": {
            "now": {"__extn": {"fn": "datetime", "arg": "2025-01-13T13:30:01.234Z"}},
            "hour": 13,
            "minute_of_day": 810,
            "weekday": 1,
        },
    }


@pytest.mark.parametrize(
    ("moment", "weekday", "minute"),
    [("1970-01-01T00:00:00Z", 4, 0), ("2024-02-29T23:59:59.999Z", 4, 1439), ("2025-01-12T00:00:00Z", 7, 0)],
)
def test_weekdays(moment: str, weekday: int, minute: int) -> None:
    time = inputs(who(), STEPS[0], at=parse_iso(moment)).context["time"]
    assert (time["weekday"], time["minute_of_day"], time["hour"]) == (weekday, minute, minute // 60)


def test_what_is_not_what_was_declared_raises() -> None:
    for amount in (2**53, -(2**53)):
        with pytest.raises(ValueError, match="no exact form"):
            inputs(who(), probed("probe.write", amount=amount))


NESTED = {
    "counters.actions_today": "Long",
    "counters.actions_last_hour": "Long",
    "counters.same_action_today": "Long",
    "credential.kind": "String",
    "credential.age_minutes": "Long, optional",
    **{f"origins.{label}": "Set of String" for label in LABELS},
    "time.now": "datetime",
    "time.hour": "Long",
    "time.minute_of_day": "Long",
    "time.weekday": "Long",
}


def test_the_documentation_has_every_name_and_type() -> None:
    context, _, actions = section("docs/policies.md", "The schema").partition("| action | `context.params` |")
    documented = dict(re.findall(r"^\| `([a-z_.]+[a-z])` \| ([A-Za-z, ]+) \|", context, re.MULTILINE))
    written = {"Set<String>": "Set of String"}
    flat = {name: kind for name, kind in CONTEXT.items() if kind not in ("Counters", "Credential", "Origins", "Time")}
    assert documented == {
        "params": "record",
        "origins": "record, optional",
        **NESTED,
        **{
            name.rstrip("?"): written.get(kind, kind) + (", optional" if name.endswith("?") else "")
            for name, kind in flat.items()
        },
    }
    rows = dict(re.findall(r"^\| `([a-z]+\.[a-z]+)` \| (.*) \|$", actions, re.MULTILINE))
    assert {name: tuple(re.findall(r"`([a-z_]+)`: ", row)) for name, row in rows.items()} == {
        spec.name: own_fields(spec.exposed) for spec in CATALOG if spec.connector != "probe"
    }
