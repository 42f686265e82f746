"""What a principal can never run it does not see, and what it can run it always does."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.core.principal import Principal
from relay.policy.default import DEFAULT_TEXT
from relay.policy.engine import evaluate
from relay.policy.inputs import action_facts, principal_facts
from relay.policy.visible import could_match
from tests.policy_kit import CATALOG, active, inputs, spec, who
from tests.policy_strategies import ABOUT, ASKERS, POLICIES, STEPS

ANY = "permit(principal, action, resource)"


def seen(text: str, principal: Principal) -> set[str]:
    policies = active(text).policies
    return {found.name for found in CATALOG if could_match(principal_facts(principal), action_facts(found), policies)}


def test_the_default_hides_nothing() -> None:
    everything = {found.name for found in CATALOG}
    assert seen(DEFAULT_TEXT, who()) == seen(DEFAULT_TEXT, who("person")) == everything
    # Without the scope it can still be previewed and planned.
    assert seen(DEFAULT_TEXT, who(scopes=frozenset({"actions:preview"}))) == everything


def test_what_nothing_permits_is_hidden() -> None:
    assert seen("", who("person")) == set()
    reads = 'permit(principal, action in Relay::Action::"effect:read", resource);'
    assert seen(reads, who()) == {"relay.echo", "probe.read"}
    assert seen(reads.replace("principal,", "principal is Relay::Person,"), who()) == set()
    assert seen(f'{ANY} when {{ principal.scopes.contains("nope") && context.internal }};', who()) == set()


def test_what_is_always_forbidden_is_hidden() -> None:
    mail = f'{ANY}; forbid(principal, action == Relay::Action::"email.send", resource);'
    assert "email.send" not in seen(mail, who()) and "webhook.save" in seen(mail, who())
    some = mail.replace("resource);", "resource) when { context.recipient_count > 2 };", 2)
    assert "email.send" in seen(some, who())
    agents = f"{ANY}; forbid(principal is Relay::Agent, action, resource);"
    assert seen(agents, who()) == set() and len(seen(agents, who("person"))) == len(list(CATALOG))


def test_what_needs_approval_is_seen() -> None:
    assert "probe.destroy" in seen(f"{ANY} when {{ context.approvals >= 2 && context.other_person }};", who())


@given(text=POLICIES, asker=ASKERS, what=STEPS, about=ABOUT)
def test_whatever_may_run_is_seen(text: str, asker: Principal, what: Any, about: dict[str, Any]) -> None:
    policies = active(text)
    decision = evaluate(inputs(asker, what, **about), policies)
    visible = could_match(principal_facts(asker), action_facts(what[0]), policies.policies)
    assert visible or decision.effect == "deny"
    # And again from memory.
    assert could_match(principal_facts(asker), action_facts(what[0]), policies.policies) == visible


@given(
    condition=st.recursive(
        st.sampled_from(
            [
                "context.internal",
                "context.approved",
                "context.untrusted_content",
                "context has client_address",
                "context has origins",
                'context has origins && context.origins.user.contains("to")',
                'principal.scopes.contains("docs")',
                "principal is Relay::Agent",
                "true",
                "false",
                "context.recipient_count == 1",
                'context.params has label && context.params.label like "*x*"',
                "(if context.internal then context.approved else context.untrusted_content)",
                "context.time.hour > 12",
            ]
        ),
        lambda inner: st.one_of(
            st.builds("({} && {})".format, inner, inner),
            st.builds("({} || {})".format, inner, inner),
            st.builds("!({})".format, inner),
        ),
        max_leaves=6,
    ),
    effect=st.sampled_from(["permit", "forbid"]),
    asker=ASKERS,
    what=STEPS,
    about=ABOUT,
)
def test_whatever_a_condition_lets_run_is_seen(
    condition: str, effect: str, asker: Principal, what: Any, about: dict[str, Any]
) -> None:
    text = f"{effect}(principal, action, resource) when {{ {condition} }};" + (f"{ANY};" if effect == "forbid" else "")
    policies = active(text)
    visible = could_match(principal_facts(asker), action_facts(what[0]), policies.policies)
    assert visible or evaluate(inputs(asker, what, **about), policies).effect == "deny"


def test_ids_are_quoted() -> None:
    odd = who(id='a"b\\c')
    assert could_match(principal_facts(odd), action_facts(spec("probe.read")), active(DEFAULT_TEXT).policies)
    named = 'permit(principal == Relay::Agent::"a\\"b\\\\c", action, resource);'
    assert could_match(principal_facts(odd), action_facts(spec("probe.read")), active(named).policies)
    assert not could_match(principal_facts(who()), action_facts(spec("probe.read")), active(named).policies)
