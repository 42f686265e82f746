"""The examples of docs/policies.md do what their headings say."""

import re
from typing import Any

import pytest

from relay.core.origins import Origins
from relay.policy.check import compile_policies
from relay.policy.default import DEFAULT_TEXT
from relay.policy.engine import evaluate
from relay.store.attempt_counts import Counts
from tests.docs_reading import section
from tests.policy_kit import MONDAY_NOON, OUTSIDE, SCHEMA, active, inputs, probed, step, who

HOUR = 3_600_000_000
EXAMPLES = dict(
    re.findall(r"^### (.+?)\n.*?```cedar\n(.*?)```", section("docs/policies.md", "Examples"), re.DOTALL | re.MULTILINE)
)
BOARD, CHAIR = "board@example.com", "chair@example.com"
KEY = "key_01a203ffb3f5b43e5fc410a33607190f"


def mail(*to: str, size: int = 1) -> Any:
    return step("email.send", to=list(to), subject="s", text="t" * size)


def get(url: str, method: str = "GET") -> Any:
    return step("http.request", method=method, url=url)


def told(**sets: set[str]) -> dict[str, Any]:
    """Return what a conversation says about where parameters came from."""
    return {"origins": Origins.of(sets)}


CASES: dict[str, list[tuple[Any, Any, dict[str, Any], str]]] = {
    "Recipients that an agent may write to": [
        (who(), mail(BOARD), {}, "allow"),
        (who(), mail(BOARD, "Chair@EXAMPLE.com"), {}, "allow"),
        (who(), mail(BOARD, OUTSIDE), {}, "require_approval"),
        (who("service"), mail(BOARD), {}, "require_approval"),
    ],
    "Domains that nobody may write to": [
        (who("person"), mail("ceo@rival.example"), {"approvals": 1}, "deny"),
        (who("person"), mail("ceo@Mail.Rival.example"), {}, "deny"),
        (who("person"), get("https://RIVAL.example/"), {}, "deny"),
        (who("person"), mail("ceo@friend.example"), {}, "allow"),
    ],
    "Bounds on size and number": [
        (who("person"), mail(*(f"a{n}@b.example" for n in range(20))), {}, "allow"),
        (who("person"), mail(*(f"a{n}@b.example" for n in range(21))), {}, "require_approval"),
        (who("person"), mail(*(f"a{n}@b.example" for n in range(21))), {"approvals": 1}, "allow"),
        (who("person"), mail(OUTSIDE, size=1_000_000), {}, "allow"),
        (who("person"), mail(OUTSIDE, size=1_000_001), {}, "require_approval"),
    ],
    "An agent's 51st mail of the day": [
        (who(), mail("ann@internal.example"), {"counters": Counts(same_action_today=49)}, "allow"),
        (who(), mail("ann@internal.example"), {"counters": Counts(900, 900, 49)}, "allow"),
        (who(), mail("ann@internal.example"), {"counters": Counts(same_action_today=50)}, "require_approval"),
        (who(), mail("ann@internal.example"), {"counters": Counts(same_action_today=50), "approvals": 1}, "allow"),
        (who("person"), mail("ann@internal.example"), {"counters": Counts(same_action_today=50)}, "allow"),
        (who(), step("relay.echo", message="x"), {"counters": Counts(same_action_today=50)}, "allow"),
    ],
    "Working hours": [
        (who(), mail("ann@internal.example"), {}, "allow"),
        (who(), mail("ann@internal.example"), {"at": MONDAY_NOON - 4 * HOUR}, "allow"),
        (who(), mail("ann@internal.example"), {"at": MONDAY_NOON - 4 * HOUR - 1}, "deny"),
        (who(), mail("ann@internal.example"), {"at": MONDAY_NOON + 6 * HOUR - 1}, "allow"),
        (who(), mail("ann@internal.example"), {"at": MONDAY_NOON + 6 * HOUR, "approvals": 1}, "deny"),
        (who(), mail("ann@internal.example"), {"at": MONDAY_NOON - 24 * HOUR}, "deny"),
        (who("person"), mail("ann@internal.example"), {"at": MONDAY_NOON - 24 * HOUR}, "allow"),
        (who(), step("relay.echo", message="x"), {"at": MONDAY_NOON - 24 * HOUR}, "allow"),
    ],
    "Reading over HTTP": [
        (who(), get("https://status.example.com/x"), {}, "allow"),
        (who(), get("https://status.example.com/x", "HEAD"), {}, "allow"),
        (who(), get("https://status.example.com/x", "POST"), {}, "require_approval"),
        (who(), get("http://status.example.com/x"), {}, "require_approval"),
        (who(), get("https://other.example.com/x"), {}, "require_approval"),
    ],
    "Addresses that nobody but the caller has named": [
        (who("person"), mail(OUTSIDE), {}, "allow"),
        (who("person"), mail(OUTSIDE), told(user={"to"}, model={"text"}), "allow"),
        (who("person"), mail(OUTSIDE), told(context={"to"}), "allow"),
        (who("person"), mail(OUTSIDE), told(result={"to"}), "allow"),
        (who("person"), mail(OUTSIDE), told(user={"to"}, untrusted={"to"}), "require_approval"),
        (who("person"), mail(OUTSIDE), told(user={"to"}, untrusted={"bcc"}), "require_approval"),
        (who("person"), mail(OUTSIDE), told(user={"to"}, model={"to"}), "require_approval"),
        (who("person"), mail(OUTSIDE), told(user={"to"}, attachment={"cc"}), "require_approval"),
        (who("person"), mail(OUTSIDE), {**told(model={"to"}), "approvals": 1}, "allow"),
        (who(), mail("ann@internal.example"), told(user={"to"}), "allow"),
        (who(), mail("ann@internal.example"), told(model={"to"}), "require_approval"),
        (who("person"), get("https://elsewhere.example/"), told(model={"url"}), "allow"),
    ],
    "No request to where a page leads": [
        (who("person"), get("https://elsewhere.example/"), {}, "allow"),
        (who("person"), get("https://elsewhere.example/"), told(user={"url"}), "allow"),
        (who("person"), get("https://elsewhere.example/"), told(model={"url"}), "allow"),
        (who("person"), get("https://elsewhere.example/"), told(user={"url"}, untrusted={"url"}), "deny"),
        (who("person"), get("https://elsewhere.example/"), {**told(untrusted={"query"}), "approvals": 1}, "deny"),
        (who("person"), get("http://10.1.2.3/"), told(untrusted={"url"}), "deny"),
        (who("person"), get("https://elsewhere.example/"), told(untrusted={"headers"}), "allow"),
        (who("person"), mail(OUTSIDE), told(untrusted={"url"}), "allow"),
    ],
    "Deleting over HTTP": [
        (who(), get("http://10.1.2.3/", "DELETE"), {}, "require_approval"),
        (who("person"), get("https://elsewhere.example/", "DELETE"), {}, "require_approval"),
        (who(), get("http://10.1.2.3/", "DELETE"), {"approvals": 1}, "allow"),
        (who(), get("http://10.1.2.3/", "PUT"), {}, "allow"),
        (who(), mail("ann@internal.example"), {}, "allow"),
    ],
    "Two persons, one of them from elsewhere": [
        (who("person"), probed("probe.destroy"), {}, "require_approval"),
        (who("person"), probed("probe.destroy"), {"approvals": 2}, "require_approval"),
        (who("person"), probed("probe.destroy"), {"approvals": 1, "other_person": True}, "require_approval"),
        (who("person"), probed("probe.destroy"), {"approvals": 2, "other_person": True}, "allow"),
        (who("person"), probed("probe.write"), {}, "allow"),
    ],
    "One key, from one network, while it is young": [
        (who(id=KEY, credential_id=KEY), step("relay.echo", message="x"), {"client": ""}, "deny"),
        (
            who(id=KEY, credential_id=KEY),
            step("relay.echo", message="x"),
            {"client": "10.20.1.1", "at": 0x01A203FFB3F5 * 1000 + 43_199 * 60_000_000},
            "allow",
        ),
        (
            who(id=KEY, credential_id=KEY),
            step("relay.echo", message="x"),
            {"client": "10.20.1.1", "at": 0x01A203FFB3F5 * 1000 + 43_200 * 60_000_000},
            "deny",
        ),
        (who(), step("relay.echo", message="x"), {}, "allow"),
        (who(id=KEY), step("relay.echo", message="x"), {"client": "10.21.1.1"}, "deny"),
    ],
}


def test_every_example_is_tried() -> None:
    assert CASES.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_accepted_alone_without_a_warning_but_where_they_mean_every_action(name: str) -> None:
    assert compile_policies(EXAMPLES[name], SCHEMA).warnings == ()
    assert len(compile_policies(EXAMPLES[name], SCHEMA).statements) == 2


@pytest.mark.parametrize("name", CASES)
def test_examples_do_what_they_say(name: str) -> None:
    both = active(DEFAULT_TEXT + EXAMPLES[name])
    for number, (principal, what, about, effect) in enumerate(CASES[name]):
        found = evaluate(inputs(principal, what, **about), both)
        assert found.effect == effect, (number, found)


@pytest.mark.parametrize("principal", [who(), who("person")])
def test_by_the_default_a_deletion_inside_is_a_write_like_any(principal: Any) -> None:
    assert evaluate(inputs(principal, get("http://10.1.2.3/", "DELETE")), active(DEFAULT_TEXT)).effect == "allow"


def test_four_eyes_asks_for_both() -> None:
    both = active(DEFAULT_TEXT + EXAMPLES["Two persons, one of them from elsewhere"])
    found = evaluate(inputs(who(), probed("probe.destroy")), both)
    assert (found.approvers, found.other_person) == (2, True)
