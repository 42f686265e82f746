"""What follows from Cedar's answers: approval and its least demand, the baseline, reasons, replay."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from cedarpy import AuthzResult, Entities, PolicySet, is_authorized, is_authorized_batch
from cedarpy import Decision as CedarDecision
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.canonical import canonical_json
from relay.core.circumstances import Circumstances
from relay.core.principal import Principal
from relay.policy import engine
from relay.policy.check import policy_schema
from relay.policy.default import DEFAULT_TEXT
from relay.policy.engine import CedarPolicy, evaluate
from relay.policy.entities import entities_of, request_of
from relay.policy.inputs import DecisionInputs, decode_inputs
from relay.policy.source import Active
from tests.policies import FixedPolicies
from tests.policy_kit import (
    CATALOG,
    INSIDE,
    MONDAY_NOON,
    OUTSIDE,
    REACH,
    SCHEMA,
    Uncounted,
    active,
    decided,
    inputs,
    probed,
    spec,
    step,
    who,
)
from tests.policy_strategies import ABOUT, ASKERS, POLICIES, STEPS

ANY = "permit(principal, action, resource)"
DENY = "forbid(principal, action, resource)"
WRITE = probed("probe.write", recipients=[OUTSIDE], amount=5)


@pytest.mark.parametrize(
    ("condition", "approvers", "other_person"),
    [
        ("context.approved", 1, False),
        ("context.approvals == 1", 1, False),
        ("context.other_person", 1, True),
        ("context.approvals >= 2", 2, False),
        ("context.approvals > 1 && context.other_person", 2, True),
        ("context.approvals == 5 && context.other_person", 5, True),
        ("context.other_person || context.approvals >= 3", 1, True),
        ("(context.other_person && context.approvals >= 3) || context.approvals >= 2", 2, False),
    ],
)
def test_the_least_demand(condition: str, approvers: int, other_person: bool) -> None:
    for text in (f"{ANY} when {{ {condition} }};", f"{ANY}; {DENY} unless {{ {condition} }};"):
        found = decided(text, who(), WRITE)
        assert (found.effect, found.approvers, found.other_person) == ("require_approval", approvers, other_person)
        enough = decided(text, who(), WRITE, approvals=approvers, other_person=other_person)
        assert enough.effect == "allow"


@pytest.mark.parametrize("condition", ["context.approvals >= 6", "false", "context.approvals < 0"])
def test_what_no_approval_helps_is_denied(condition: str) -> None:
    found = decided(f"{ANY} when {{ {condition} }};", who(), WRITE)
    assert (found.effect, found.approvers, found.other_person) == ("deny", 1, False)


def test_after_approval_the_real_circumstances_count() -> None:
    two = f"{ANY} when {{ context.approvals >= 2 }};"
    assert decided(two, who(), WRITE, approvals=2).effect == "allow"
    more = decided(two, who(), WRITE, approvals=1, other_person=True)
    assert (more.effect, more.approvers, more.other_person) == ("require_approval", 2, True)
    # Forbidden since: no approval that was given helps.
    assert decided(f"{ANY}; {DENY};", who(), WRITE, approvals=3, other_person=True).effect == "deny"
    # A person who turned up cannot be asked to leave.
    assert decided(f"{ANY} when {{ context.approvals == 1 }};", who(), WRITE, approvals=2).effect == "deny"


@given(needed=st.integers(0, 7), other=st.booleans(), has=st.integers(0, 7), has_other=st.booleans())
def test_demands_are_enough_and_the_least(needed: int, other: bool, has: int, has_other: bool) -> None:
    wanted = f"context.approvals >= {needed}" + (" && context.other_person" if other else "")
    text = f"{ANY} when {{ {wanted} }};"
    found = decided(text, who(), WRITE, approvals=has, other_person=has_other)
    if has >= needed and has_other >= other:
        assert found.effect == "allow"
    elif max(needed, has, 1) <= 5:
        assert found.effect == "require_approval"
        assert found.approvers == max(needed, has, 1)
        assert found.other_person == (other or has_other)
    else:
        assert found.effect == "deny"


def test_deny_by_default() -> None:
    assert decided("", who("person"), WRITE).reason == "No policy allows this."
    assert decided("", who("person"), WRITE).effect == "deny"
    only_others = 'permit(principal is Relay::Service, action == Relay::Action::"probe.read", resource);'
    assert decided(only_others, who("person"), WRITE).effect == "deny"


@pytest.mark.parametrize("approvals", [0, 1])
@pytest.mark.parametrize("kind", ["agent", "service", "person"])
def test_no_workspace_lifts_the_baseline(kind: Any, approvals: int) -> None:
    found = decided(f'@id("all") {ANY};', who(kind), probed("probe.destroy"), approvals=approvals)
    if kind == "person" or approvals:
        assert found.effect == "allow"
    else:
        assert found.effect == "require_approval"
        assert found.reason == 'Needs the approval of a person: "unapproved-destruction" of the baseline.'


def test_the_operator_s_baseline_holds_in_every_workspace() -> None:
    text = '@id("frozen") forbid(principal in Relay::Workspace::"guests", action, resource);'
    schema = policy_schema(CATALOG, text)
    allowing = active(f'@id("frozen") {ANY};', schema)
    for workspace, effect in (("guests", "deny"), ("default", "allow")):
        found = evaluate(inputs(who("person", workspace_id=workspace), WRITE), allowing)
        assert found.effect == effect
    assert found.policies == ("frozen",)
    denied = evaluate(inputs(who("person", workspace_id="guests"), WRITE), allowing)
    assert denied.reason == 'Forbidden by "frozen" of the baseline.'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f'@id("open") {ANY};', 'Allowed by "open".'),
        (f"\n{ANY};", "Allowed by the policy in line 2."),
        (f'@id("open") {ANY}; @id("shut") {DENY};', 'Forbidden by "shut".'),
        (f'@id("asks") {ANY} when {{ context.approved }};', 'Needs the approval of a person: "asks".'),
        (
            f'@id("open") {ANY}; @id("asks") {DENY} unless {{ context.approvals > 1 }};',
            'Needs the approval of 2 persons: "asks".',
        ),
        (
            f'@id("asks") {ANY} when {{ context.other_person }};',
            'Needs the approval of a person who had no part in making the requester\'s key: "asks".',
        ),
        (
            f'@id("asks") {ANY} when {{ context.other_person && context.approvals > 2 }};',
            'Needs the approval of 3 persons one of whom had no part in making the requester\'s key: "asks".',
        ),
        (
            " ".join(f'@id("n{number}") {ANY};' for number in range(12)),
            'Allowed by "n0", "n1", "n2" and 9 more.',
        ),
    ],
)
def test_reasons_name_the_policies(text: str, reason: str) -> None:
    assert decided(text, who(), WRITE).reason == reason


def test_policies_are_named_in_the_order_of_the_text() -> None:
    text = " ".join(f'@id("n{number}") {ANY};' for number in range(12))
    assert decided(text, who(), WRITE).policies == tuple(f"n{number}" for number in range(12))


async def test_a_decision_can_be_made_again_from_its_inputs() -> None:
    source = FixedPolicies(DEFAULT_TEXT, CATALOG)
    policy = CedarPolicy(source, REACH, Uncounted())
    what = step("email.send", to=[OUTSIDE, INSIDE], subject="canary subject", text="canary text")
    made = await policy.decide(who(), *what, Circumstances(MONDAY_NOON, client="2001:db8::7"))
    assert made.effect == "require_approval" and made.inputs
    again = decode_inputs(made.inputs)
    assert again.encode() == made.inputs == canonical_json(json.loads(made.inputs))
    assert evaluate(again, await source.active("default")) == made
    assert evaluate(again, active(f"{ANY};")).effect == "allow"
    only = '["zoe@elsewhere.example","ann@internal.example"] == context.recipients'
    near = 'context has client_address && context.client_address == ip("2001:db8::7")'
    assert evaluate(again, active(f"{ANY} when {{ {only} && {near} }};")).effect == "allow"
    assert b"canary" not in made.inputs


@pytest.mark.parametrize(
    "broken",
    [b"", b"null", b"[]", b"{}", b'{"format":1}', "drop principal", "extra", "format 2", "kind", "approvals text"],
)
def test_inputs_that_were_not_recorded_are_refused(broken: Any) -> None:
    members = json.loads(inputs(who(), WRITE).encode())
    match broken:
        case "drop principal":
            del members["principal"]
        case "extra":
            members["more"] = 1
        case "format 2":
            members["format"] = 2
        case "kind":
            members["principal"]["kind"] = "root"
        case "approvals text":
            members["approvals"] = "1"
    with pytest.raises(ValueError):
        decode_inputs(broken if isinstance(broken, bytes) else json.dumps(members).encode())


@settings(deadline=None)
@given(text=POLICIES, asker=ASKERS, what=STEPS, about=ABOUT)
def test_slicing_changes_nothing(text: str, asker: Principal, what: Any, about: dict[str, Any]) -> None:
    """Cedar over the whole text and the whole context, validated against the schema, says the same."""
    asked, chosen = inputs(asker, what, **about), active(text)
    found = evaluate(asked, chosen)
    assert (found.effect, found.approvers, found.other_person) == without_slices(asked, chosen)


def without_slices(asked: DecisionInputs, chosen: Active) -> tuple[str, int, bool]:
    """Put the whole text to Cedar under each demand, the least first, as if nothing were known about any policy."""
    text = "\n".join(statement.text for statement in chosen.policies.statements)
    actual = (asked.approvals, asked.other_person)
    greater = [(number, other) for number in range(max(1, asked.approvals), 6) for other in (False, True)]
    for approvals, other in [actual, *(one for one in greater if one != actual and one[1] >= asked.other_person)]:
        answer = whole(asked, text, approvals, other)
        if answer.diagnostics.errors:
            break
        if answer.decision is CedarDecision.Allow:
            return ("allow", 1, False) if (approvals, other) == actual else ("require_approval", approvals, other)
    return "deny", 1, False


def whole(asked: DecisionInputs, text: str, approvals: int, other_person: bool) -> AuthzResult:
    context = {**asked.context, "approved": approvals > 0, "approvals": approvals, "other_person": other_person}
    entities = json.loads(str(entities_of(asked.principal, asked.action)))
    # The schema brings the actions itself.
    others = [entity for entity in entities if entity["uid"]["type"] != "Relay::Action"]
    answer = is_authorized(
        {**request_of(asked.principal, asked.action), "context": context},
        text,
        Entities.from_json_str(json.dumps(others), SCHEMA.handle),
        SCHEMA.handle,
    )
    assert answer.decision is not CedarDecision.NoDecision, answer.diagnostics.errors
    return answer


class Counting:
    """Counts what Cedar is asked, and how many policies with it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, requests: Any, policies: PolicySet, entities: Entities) -> Any:
        self.asked.append(len(policies.to_pst().static_policies))
        return is_authorized_batch(requests, policies, entities)


@pytest.mark.parametrize(
    ("last", "effect", "asked"),
    [
        (f"{ANY} when {{ context.approvals > 4 && context.other_person }};", "require_approval", [103] + [3] * 10),
        (f"{ANY} when {{ context.approvals > 4 }}; {DENY};", "deny", [104]),
    ],
)
def test_only_what_agreement_can_change_is_asked_again(
    last: str, effect: str, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hundred that do not look at who has agreed are asked once; one of them that forbids ends the asking."""
    hundred = " ".join(f"{DENY} when {{ context.recipient_count == {number + 10} }};" for number in range(100))
    text = f"{hundred} {DENY} unless {{ context.approved }}; {ANY} when {{ context.time.hour > 30 }}; {last}"
    counting = Counting()
    monkeypatch.setattr(engine, "is_authorized_batch", counting)
    assert decided(text, who(), WRITE).effect == effect
    assert counting.asked == asked


@settings(deadline=None)
@given(text=POLICIES, asked=st.lists(st.tuples(ASKERS, STEPS, ABOUT), min_size=2, max_size=8))
def test_remembering_changes_nothing(text: str, asked: list[tuple[Principal, Any, dict[str, Any]]]) -> None:
    shared = active(text)
    for asker, what, about in [*asked, *asked]:
        given = inputs(asker, what, **about)
        fresh = Active("pol", 7, replace_memory(shared))
        assert evaluate(given, shared) == evaluate(given, fresh)


def replace_memory(shared: Active) -> Any:
    return type(shared.policies)(shared.policies.statements)


@pytest.mark.parametrize("untrusted", [False, True])
def test_a_policy_that_takes_the_whole_context_is_given_it(untrusted: bool) -> None:
    text = f"{ANY} when {{ (if context.internal then context else context).untrusted_content }};"
    found = decided(text, who(), WRITE, untrusted_content=untrusted)
    assert found.effect == ("allow" if untrusted else "deny")
    approved = f"{ANY} when {{ (if context.internal then context else context).approved }};"
    assert decided(approved, who(), WRITE).effect == "require_approval"


def test_what_is_remembered_is_bounded() -> None:
    policies = active(f"{ANY} when {{ context.params has amount && context.params.amount > 3 }};")
    for amount in range(3000):
        evaluate(inputs(who(), probed("probe.write", amount=amount)), policies)
    assert len(policies.policies._remembered) <= 1024


async def test_a_broken_policy_text_allows_nothing() -> None:
    broken = replace(active(f"{ANY};"), broken="The policies do not check any more.")
    found = evaluate(inputs(who("person"), WRITE), broken)
    assert (found.effect, found.reason) == ("deny", "The policies do not check any more.")


async def test_a_source_that_fails_raises() -> None:
    class Failing:
        async def active(self, workspace_id: str) -> Active:
            raise LookupError(workspace_id)

    with pytest.raises(LookupError):
        await CedarPolicy(Failing(), REACH, Uncounted()).decide(who(), *WRITE, Circumstances(MONDAY_NOON))
    with pytest.raises(LookupError):
        await CedarPolicy(Failing(), REACH, Uncounted()).could_run(who(), spec("probe.read"))


async def test_each_workspace_is_decided_by_its_own_policies() -> None:
    class Two:
        async def active(self, workspace_id: str) -> Active:
            return active(f"{ANY};" if workspace_id == "open" else DEFAULT_TEXT)

    policy = CedarPolicy(Two(), REACH, Uncounted())
    made = await asyncio.gather(
        *(policy.decide(who(workspace_id=name), *WRITE, Circumstances(MONDAY_NOON)) for name in ("open", "default"))
    )
    assert [decision.effect for decision in made] == ["allow", "require_approval"]
