"""The default policy, as a table."""

from itertools import product
from typing import Any

import pytest

from relay.catalog import ActionSpec
from relay.core.action import Step
from relay.core.principal import PrincipalKind
from relay.policy.default import BASELINE_TEXT, DEFAULT_TEXT
from relay.policy.engine import evaluate
from relay.policy.reach import Reach
from tests.docs_reading import fences
from tests.policy_kit import INSIDE, OUTSIDE, active, decided, inputs, probed, step, who

DEFAULT = active(DEFAULT_TEXT)
REACHED: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, False),
    "an internal recipient": ({"recipients": [INSIDE]}, True),
    "one below an internal domain": ({"recipients": ["bob@mail.internal.example"]}, True),
    "an external recipient": ({"recipients": [OUTSIDE]}, False),
    "both": ({"recipients": [INSIDE, OUTSIDE]}, False),
    "a host that is opened": ({"hosts": ["10.1.2.3"]}, True),
    "an internal host": ({"hosts": ["www.internal.example"]}, True),
    "an external host": ({"hosts": ["elsewhere.example"]}, False),
    "an internal recipient over an external host": ({"recipients": [INSIDE], "hosts": ["elsewhere.example"]}, False),
    "an external recipient over an internal host": ({"recipients": [OUTSIDE], "hosts": ["10.1.2.3"]}, False),
}
KINDS: tuple[PrincipalKind, ...] = ("agent", "person", "service")


def expected(kind: str, effect: str, *, internal: bool, approved: bool, untrusted: bool) -> str:
    """What docs/policies.md says in words."""
    if effect == "read":
        return "allow"
    if effect == "write" and (internal or (kind == "person" and not untrusted)):
        return "allow"
    return "allow" if approved else "require_approval"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "effect"), [("read", "read"), ("write", "write"), ("destroy", "destructive")])
def test_the_whole_table(kind: PrincipalKind, name: str, effect: str) -> None:
    for (reached, (shown, internal)), approvals, untrusted, client in product(
        REACHED.items(), (0, 1, 2), (False, True), ("", "203.0.113.9")
    ):
        asked = inputs(
            who(kind),
            probed(f"probe.{name}", **shown),
            approvals=approvals,
            untrusted_content=untrusted,
            client=client,
        )
        decision = evaluate(asked, DEFAULT)
        wanted = expected(kind, effect, internal=internal, approved=approvals > 0, untrusted=untrusted)
        assert decision.effect == wanted, (reached, approvals, untrusted)
        assert (decision.approvers, decision.other_person) == (1, False)
        assert (decision.policy_id, decision.policy_version) == ("pol", 7)


@pytest.mark.parametrize(
    ("what", "kind", "effect"),
    [
        (step("relay.echo", message="x"), "agent", "allow"),
        (step("email.send", to=[INSIDE], subject="s", text="t"), "agent", "allow"),
        (step("email.send", to=[INSIDE], bcc=[OUTSIDE], subject="s", text="t"), "agent", "require_approval"),
        (step("email.send", to=[INSIDE], cc=[OUTSIDE], subject="s", text="t"), "service", "require_approval"),
        (step("email.send", to=[OUTSIDE], subject="s", text="t"), "person", "allow"),
        (step("webhook.save", url="http://10.0.0.9/x", payload={}), "agent", "allow"),
        (step("webhook.save", url="https://elsewhere.example/x", payload={}), "agent", "require_approval"),
        (step("http.request", method="GET", url="https://elsewhere.example/"), "agent", "require_approval"),
        (step("http.request", method="POST", url="https://opened.example:8443/"), "agent", "allow"),
        (step("http.request", method="POST", url="https://opened.example/"), "agent", "require_approval"),
        (step("probe.blind"), "agent", "require_approval"),
        (step("probe.blind"), "person", "allow"),
    ],
)
def test_the_real_actions(what: tuple[ActionSpec, Step], kind: PrincipalKind, effect: str) -> None:
    assert evaluate(inputs(who(kind), what), DEFAULT).effect == effect


def test_nothing_is_internal_without_settings() -> None:
    asked = inputs(who(), step("email.send", to=[INSIDE], subject="s", text="t"), Reach())
    assert evaluate(asked, DEFAULT).effect == "require_approval"


@pytest.mark.parametrize("scopes", [(), ("actions:preview", "workspace:admin")])
def test_a_missing_scope_comes_before_every_policy(scopes: tuple[str, ...]) -> None:
    viewer = who("person", scopes=frozenset(scopes))
    decision = decided("permit(principal, action, resource);", viewer, step("relay.echo", message="x"), approvals=1)
    assert (decision.effect, decision.reason) == ("deny", "This needs the scope actions:execute.")


def test_its_policies_are_named() -> None:
    assert [statement.name for statement in DEFAULT.policies.statements if not statement.baseline] == [
        '"reads"',
        '"person-writes"',
        '"internal-writes"',
        '"approved-changes"',
    ]


def test_the_documentation_shows_these_texts() -> None:
    shown = [fence.text for fence in fences("docs/policies.md") if fence.language == "cedar"]
    assert shown[:2] == [DEFAULT_TEXT, BASELINE_TEXT]
