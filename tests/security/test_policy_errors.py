"""Whatever goes wrong while deciding is a denial; no text, however mangled, crashes Relay or allows more."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cedarpy import PolicySet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.circumstances import Circumstances
from relay.gate.decide import decide
from relay.policy.analysis import context_paths
from relay.policy.check import PolicyRefused, compile_policies
from relay.policy.compiled import CompiledPolicies
from relay.policy.default import DEFAULT_TEXT
from relay.policy.engine import CedarPolicy, evaluate
from relay.policy.source import Active
from relay.policy.text import MAX_NESTING, MAX_OPERATORS
from tests.policy_kit import (
    MONDAY_NOON,
    OUTSIDE,
    REACH,
    SCHEMA,
    Uncounted,
    active,
    decided,
    inputs,
    probed,
    step,
    who,
)

ANY = "permit(principal, action, resource)"
FAILING = [
    "context.recipient_count + 9223372036854775807 > 0",
    "context.recipient_count * 9223372036854775807 * 2 > 0",
    'context.time.now.offset(duration("9223372036854775807ms")) > context.time.now',
    "(if context.approvals < 9 then context.recipient_count - 9223372036854775807 - 9 else 0) > 0",
]
WHAT = probed("probe.write", recipients=[OUTSIDE])


@pytest.mark.parametrize("condition", FAILING)
@pytest.mark.parametrize("effect", ["permit", "forbid"])
@pytest.mark.parametrize("first", [False, True])
def test_a_policy_that_fails_denies(condition: str, effect: str, first: bool) -> None:
    failing = f'@id("broken") {effect}(principal, action, resource) when {{ {condition} }};'
    texts = [failing, f'@id("open") {ANY};']
    text = "\n".join(texts if first else reversed(texts))
    for kind in ("agent", "person"):
        for approvals in (0, 1, 5):
            found = decided(text, who(kind), WHAT, approvals=approvals)
            assert (found.effect, found.reason) == ("deny", 'Denied, because "broken" could not be evaluated.')


def test_one_that_fails_only_under_approval_denies() -> None:
    text = f"""
    @id("asks") {ANY} when {{ context.approved }};
    @id("broken") forbid(principal, action, resource)
    when {{ context.approvals > 0 && context.approvals + 9223372036854775807 > 0 }};
    """
    assert decided(text, who(), WHAT).effect == "deny"
    assert decided(text, who(), WHAT, approvals=1).effect == "deny"
    # Nor does it help that more persons would get round the error.
    once = text.replace("context.approvals > 0 &&", "context.approvals == 1 &&")
    assert decided(once, who(), WHAT).effect == "deny"


def test_one_about_another_action_changes_nothing() -> None:
    text = f'{ANY}; forbid(principal, action == Relay::Action::"probe.read", resource) when {{ {FAILING[0]} }};'
    assert decided(text, who(), WHAT).effect == "allow"
    assert decided(text, who(), probed("probe.read", recipients=[OUTSIDE])).effect == "deny"


def unchecked(text: str) -> Active:
    """Return policies that no type-check has seen, as a bug in Cedar's would let them through."""
    sound = compile_policies(text.replace("NOPE", "internal"), SCHEMA).statements
    broken = []
    for statement in sound:
        if statement.baseline:
            broken.append(statement)
            continue
        changed = statement.text.replace("internal", "NOPE")
        (syntax,) = PolicySet.from_str(changed).to_pst().static_policies.values()
        broken.append(replace(statement, text=changed, syntax=syntax, looks_at=context_paths(syntax.clauses)))
    return Active("pol", 1, CompiledPolicies(broken))


@pytest.mark.parametrize("condition", ["context.NOPE", "context.NOPE || true", "!context.NOPE"])
@pytest.mark.parametrize("effect", ["permit", "forbid"])
def test_an_attribute_that_is_not_there_denies(condition: str, effect: str) -> None:
    text = f"{ANY}; {effect}(principal, action, resource) when {{ {condition} }};"
    assert evaluate(inputs(who("person"), WHAT), unchecked(text)).effect == "deny"


@pytest.mark.parametrize("broken", [None, 1.5, "text", [None], {"__extn": {"fn": "ip", "arg": "nope"}}, 10**30])
def test_a_context_that_cedar_cannot_read_denies(broken: Any) -> None:
    asked = inputs(who("person"), WHAT)
    asked.context["recipient_count"] = broken
    texts = (
        f"{ANY} unless {{ context.recipient_count > 3 }};",
        f"{ANY}; forbid(principal, action, resource) when {{ context.recipient_count > 3 }};",
    )
    assert [evaluate(asked, active(text)).effect for text in texts] == ["deny", "deny"]


async def test_the_gate_takes_whatever_is_raised_for_a_denial() -> None:
    class Failing:
        async def active(self, workspace_id: str) -> Active:
            raise RuntimeError("canary-in-an-error")

    found = await decide(CedarPolicy(Failing(), REACH, Uncounted()), who(), *WHAT, Circumstances(MONDAY_NOON))
    assert (found.effect, found.policy_id) == ("deny", "builtin:error")
    assert "canary" not in found.reason
    too_large = probed("probe.write", amount=2**60)
    found = await decide(
        CedarPolicy(_Open(), REACH, Uncounted()), who("person"), *too_large, Circumstances(MONDAY_NOON)
    )
    assert found.effect == "deny"


class _Open:
    async def active(self, workspace_id: str) -> Active:
        return active(f"{ANY};")


def test_reasons_quote_neither_parameters_nor_others_data() -> None:
    for text in (DEFAULT_TEXT, f"{ANY};", f"{ANY} when {{ {FAILING[0]} }};", ""):
        found = decided(text, who(), probed("probe.write", recipients=["canary@canary.example"], label="canary"))
        assert "canary" not in found.reason and "key_" not in found.reason


PIECES = st.sampled_from(
    """permit forbid ( ) { } [ ] ; , . :: : == != < <= in is has like && || ! + - * if then else true false principal
    action resource context @id("a") @ "x" "" 1 9223372036854775807 9223372036854775808 ?principal // when unless
    Relay::Agent Relay::Action::"email.send" ip("::1") decimal("1.0") .approved .params .bytes .isInRange "\\u{202e}" "
    \\ § é \0 \n \r \t""".split(" ")
)
GARBAGE = st.one_of(
    st.lists(PIECES, max_size=40).map(" ".join),
    st.text(max_size=60),
    st.builds(
        lambda at, cut, extra: DEFAULT_TEXT[:at] + extra + DEFAULT_TEXT[at + cut :],
        st.integers(0, 800),
        st.integers(0, 20),
        PIECES,
    ),
)
DEFAULT = active(DEFAULT_TEXT)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(text=GARBAGE)
def test_garbage_is_refused_or_is_a_policy(text: str) -> None:
    try:
        policies = compile_policies(text, SCHEMA)
    except PolicyRefused as refused:
        lines = text.count("\n") + text.count("\r") + 1
        assert refused.problems
        assert all(1 <= found.line <= lines and found.column >= 1 and found.reason for found in refused.problems)
        return
    for kind in ("agent", "person"):
        for what in (WHAT, probed("probe.destroy"), step("relay.echo", message="x")):
            found = evaluate(inputs(who(kind), what), Active("pol", 1, policies))
            # Nothing but a permit allows, and nothing lifts the baseline.
            if not any(statement.effect == "permit" for statement in policies.statements):
                assert found.effect == "deny"
            if kind == "agent" and what[0].effect == "destructive":
                assert found.effect != "allow"


@given(cut=st.integers(0, len(DEFAULT_TEXT)))
def test_a_text_that_is_cut_off_never_allows_more(cut: int) -> None:
    try:
        policies = active(DEFAULT_TEXT[:cut])
    except PolicyRefused:
        return
    order = ["deny", "require_approval", "allow"]
    for kind in ("agent", "person"):
        for what in (WHAT, probed("probe.destroy"), probed("probe.read")):
            asked = inputs(who(kind), what)
            assert order.index(evaluate(asked, policies).effect) <= order.index(evaluate(asked, DEFAULT).effect)


STACK = """
import sys, threading
from relay.policy.check import PolicyRefused, compile_policies
from relay.policy.engine import evaluate
from relay.policy.source import Active
from relay.policy.visible import could_match
from tests.policy_kit import SCHEMA, inputs, probed, who

def run():
    for expression in sys.stdin.read().split("\\n"):
        text = "permit(principal, action, resource) when { " + expression + " };"
        try:
            policies = compile_policies(text, SCHEMA)
        except PolicyRefused as refused:
            print("refused", refused.problems[0].reason[:40])
            continue
        asked = inputs(who(), probed("probe.write"))
        could_match(asked.principal, asked.action, policies)
        print("accepted", evaluate(asked, Active("p", 1, policies)).effect)

threading.stack_size(1024 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print("alive")
"""


def test_deep_nesting_ends_no_process(tmp_path: Path) -> None:
    """Cedar alone overflows the stack on some of these, and on others its validator gives up and says all is well."""
    inner, operators = MAX_NESTING - 1, MAX_OPERATORS
    expressions = []
    for count in (inner, inner * 4, 3000):
        pairs = (
            ("(", ")"),
            ("[", "]"),
            ("{a: ", "}"),
            ("!(", ")"),
            ("-(", ")"),
            ("if (", ") then true else true"),
            ('a["', '"]'),
        )
        for opening, closing in pairs:
            expressions.append(opening * count + "true" + closing * count)
    for count in (operators, operators * 8, 20_000):
        for part in ("true && ", "true || ", "1 + ", "1 * ", "if true then true else ", "!", "1 == "):
            expressions.append(part * count + "true")
            expressions.append("(" * inner + part * count + "true" + ")" * inner)
        expressions += ["context" + ".params" * count, "[1]" + ".contains(1)" * count, "context" + '["a"]' * count]
    ran = subprocess.run(
        [sys.executable, "-c", STACK],
        input="\n".join(expressions),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": "src:."},
        timeout=100,
        check=False,
    )
    said = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert said[-1] == "alive" and len(said) == len(expressions) + 1
    assert "accepted allow" in said
    # What is far beyond the bounds never comes to Cedar.
    beyond = ("refused brackets", "refused more than", "refused the text")
    for expression, answer in zip(expressions, said, strict=False):
        assert len(expression) <= 20_000 or answer.startswith(beyond), (expression[:40], answer)
