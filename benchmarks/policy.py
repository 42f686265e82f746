"""What a decision costs at 100 policies: processor time, beside one bare call of cedarpy with the same policies."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cedarpy import PolicySet, is_authorized_batch

from relay.core.circumstances import Circumstances
from relay.core.clock import MINUTE, now
from relay.policy.check import compile_policies, policy_schema
from relay.policy.compiled import CompiledPolicies
from relay.policy.default import DEFAULT_TEXT
from relay.policy.engine import CedarPolicy, evaluate
from relay.policy.entities import entities_of, request_of
from relay.policy.inputs import DecisionInputs, encode_json
from relay.policy.reach import Reach
from relay.policy.source import Active
from tests.policy_kit import CATALOG, Uncounted, inputs, step, who

POLICIES = 100
ROUNDS = 7
CALLS = 2000
AIM = 150.0
COLD, WARM = "nothing remembered: allow", "in use, recorded: allow"
SPREAD, SAME = "spread over the actions", "all about this action"
# Where every policy has to be looked at, Cedar itself takes longer than that.
AIMED = {SPREAD: (COLD, WARM), SAME: (WARM,)}
ACTIONS = sorted(spec.name for spec in CATALOG)
REACH = Reach(("internal.example",))


@dataclass(frozen=True)
class Source:
    """Policies, as a workspace has them."""

    found: Active

    async def active(self, workspace_id: str) -> Active:
        return self.found


def text(actions: list[str]) -> str:
    """Return 100 policies about these actions in turn, which look at the time and at recipients; none permits."""
    rule = (
        '@id("p{n}") forbid (principal is Relay::Agent, action == Relay::Action::"{action}", resource) when '
        '{{ context.time.hour < 0 || context.recipients.containsAny(["a{n}@example.com", "b{n}@example.com"]) }};'
    )
    return "\n".join(
        rule.format(n=number, action=action) for number, action in zip(range(POLICIES), itertools.cycle(actions))
    )


def spent(run: Callable[[], Any], calls: int = CALLS) -> float:
    """Return the least processor time of one call, in microseconds: whatever else happens can only add to it."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            run()
        best = min(best, (time.process_time() - began) / calls * 1e6)
    return best


def bare(policies: CompiledPolicies, asked: DecisionInputs) -> float:
    """Return what Cedar alone takes: everything parsed before, all policies, the whole context."""
    parsed = PolicySet.from_str("\n".join(statement.text for statement in policies.statements))
    entities = entities_of(asked.principal, asked.action)
    context = {**asked.context, "approved": False, "approvals": 0, "other_person": False}
    request = {**request_of(asked.principal, asked.action), "context": encode_json(context)}
    return spent(lambda: is_authorized_batch([request], parsed, entities))


def whole(active: Active) -> float:
    """Return what a decision takes, from the step to the decision with its inputs, ten of them in a minute."""
    moments = itertools.count(now(), MINUTE // 10)
    policy, asker = CedarPolicy(Source(active), REACH, Uncounted()), who()
    what = step("email.send", to=["zoe@elsewhere.example"], subject="s", text="t")

    async def many() -> float:
        best = float("inf")
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(CALLS):
                await policy.decide(asker, *what, Circumstances(next(moments)))
            best = min(best, (time.process_time() - began) / CALLS * 1e6)
        return best

    return asyncio.run(many())


def forgetful(active: Active, asked: DecisionInputs) -> float:
    """Return what a decision takes when nothing is remembered."""

    moments = itertools.count()

    def once() -> None:
        # Another person each time, whom nobody has decided about.
        evaluate(replace(asked, principal=replace(asked.principal, id=f"key_{next(moments)}")), active)

    return spent(once)


def main() -> None:
    """Measure and print."""
    schema = policy_schema(CATALOG)
    asked = inputs(who(), step("email.send", to=["zoe@elsewhere.example"], subject="s", text="t"), REACH)
    print(f"\na decision about email.send at {POLICIES} policies, µs of processor time")
    print(f"{'':<58}{'µs':>8}{'to bare cedarpy':>18}")
    for about, actions in ((SPREAD, ACTIONS), (SAME, ["email.send"])):
        allow = "permit(principal, action, resource);"
        allowing = Active("bench", 1, compile_policies(text(actions) + allow, schema))
        asking = Active("bench", 1, compile_policies(text(actions) + DEFAULT_TEXT, schema))
        base = bare(allowing.policies, asked)
        rows = {
            "cedarpy alone": base,
            COLD: forgetful(allowing, asked),
            "nothing remembered: require_approval": forgetful(asking, asked),
            WARM: whole(allowing),
            "in use, recorded: require_approval": whole(asking),
        }
        print(about)
        for name, found in rows.items():
            print(f"  {name:<56}{found:>8.0f}{found / base:>17.2f}×")
        for name in AIMED[about]:
            print(f"  {'met   ' if rows[name] <= AIM else 'MISSED'}  {name} (aim ≤ {AIM:g} µs)")


if __name__ == "__main__":
    main()
