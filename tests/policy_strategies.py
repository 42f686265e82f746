"""Policies, principals and steps for hypothesis: every part of the language that Relay's schema has."""

from hypothesis import strategies as st

from relay.core.origins import Origins
from tests.policy_kit import INSIDE, OUTSIDE, probed, step, who

CONDITIONS = [
    "true",
    "context.internal",
    "context.approved",
    "context.time.hour < 13",
    'context.recipient_domains.contains("elsewhere.example")',
    "context has client_address && context.client_address.isLoopback()",
    "context.params has amount && context.params.amount > 3",
    "context.credential has age_minutes && context.credential.age_minutes > 10",
    'principal.scopes.contains("docs")',
    "context.untrusted_content",
    'context has origins && context.origins.untrusted.contains("to")',
    'context has origins.model && ["to", "cc"].containsAny(context.origins.model)',
    "context.approvals > 1 || context.other_person",
    "context.recipient_count + 9223372036854775806 > 0",
    "principal.made_by.isEmpty()",
    "context.counters.actions_today < 2 || context.counters.same_action_today > 0",
]
PRINCIPALS = [
    "principal",
    "principal is Relay::Agent",
    'principal is Relay::Person in Relay::Workspace::"default"',
    'principal == Relay::Agent::"key_01940000000000000000000000000000"',
    'principal == Relay::Agent::"key_other"',
    'principal in Relay::Workspace::"default"',
]
ACTIONS = [
    "action",
    'action == Relay::Action::"probe.write"',
    'action in Relay::Action::"effect:write"',
    'action in [Relay::Action::"probe.read", Relay::Action::"connector:email"]',
    'action in Relay::Action::"connector:probe"',
]
RESOURCES = [
    "resource",
    'resource == Relay::Connector::"probe"',
    "resource is Relay::Connector",
    'resource == Relay::Connector::"email"',
    'resource in Relay::Workspace::"default"',
]
POLICIES = st.lists(
    st.builds(
        "{}({}, {}, {}) {} {{ {} }};".format,
        st.sampled_from(["permit", "permit", "forbid"]),
        st.sampled_from(PRINCIPALS),
        st.sampled_from(ACTIONS),
        st.sampled_from(RESOURCES),
        st.sampled_from(["when", "unless"]),
        st.sampled_from(CONDITIONS),
    ),
    max_size=6,
).map("\n".join)
ASKERS = st.builds(
    who,
    st.sampled_from(["agent", "person", "service"]),
    workspace_id=st.sampled_from(["default", "other"]),
    id=st.sampled_from(["key_01940000000000000000000000000000", "key_other"]),
    made_by=st.sampled_from([(), ("key_maker",)]),
)
STEPS = st.one_of(
    st.builds(
        probed,
        st.sampled_from(["probe.read", "probe.write", "probe.destroy"]),
        recipients=st.sets(st.sampled_from([INSIDE, OUTSIDE])),
        amount=st.integers(0, 6),
    ),
    st.just(step("email.send", to=[OUTSIDE], subject="s", text="t")),
)
ABOUT = st.fixed_dictionaries(
    {
        "approvals": st.integers(0, 3),
        "other_person": st.booleans(),
        "untrusted_content": st.booleans(),
        "client": st.sampled_from(["", "127.0.0.1", "203.0.113.4"]),
        "origins": st.none()
        | st.builds(
            Origins,
            user=st.frozensets(st.sampled_from(["to", "cc"])),
            untrusted=st.frozensets(st.sampled_from(["to", "cc"])),
            model=st.frozensets(st.sampled_from(["to", "cc"])),
        ),
    }
)
