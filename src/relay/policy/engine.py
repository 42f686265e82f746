"""The decision: Cedar over the workspace's policies and the baseline, and what would have to be agreed to."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cedarpy import Decision as CedarDecision
from cedarpy import is_authorized_batch

from relay.catalog import ActionSpec
from relay.core.action import Decision, DecisionEffect, Step
from relay.core.circumstances import Circumstances
from relay.core.principal import Principal
from relay.policy.analysis import EVERYTHING, Path
from relay.policy.compiled import CompiledPolicies, Slice, Statement
from relay.policy.context import inputs_of
from relay.policy.counters import Counters
from relay.policy.entities import TYPES, entities_of, request_of
from relay.policy.inputs import ActionFacts, DecisionInputs, PrincipalFacts, action_facts, encode_json, principal_facts
from relay.policy.reach import Reach
from relay.policy.reasons import allowed, denied, failed, needs
from relay.policy.source import Active, PolicySource
from relay.policy.visible import could_match

MAX_APPROVERS: Final = 5
MAX_REMEMBERED: Final = 1024
"""Characters of a context that is remembered with its decision; what is longer hardly comes again."""


class CedarPolicy:
    """Decides by the active policies of the principal's workspace; whatever fails is raised, which is a denial."""

    def __init__(self, source: PolicySource, reach: Reach, counters: Counters) -> None:
        self._source = source
        self._reach = reach
        self._counters = counters

    async def decide(
        self, principal: Principal, spec: ActionSpec, step: Step, circumstances: Circumstances
    ) -> Decision:
        active = await self._source.active(principal.workspace_id)
        inputs = inputs_of(principal, spec, step, circumstances, self._reach)
        if lacks_counters(inputs, active):
            inputs = inputs.with_counters(
                await self._counters.counted(
                    principal.workspace_id,
                    principal.account,
                    spec.name,
                    at=circumstances.at,
                    asked_at=circumstances.asked_at,
                )
            )
        return _decision(inputs, active, inputs.encode())

    async def could_run(self, principal: Principal, spec: ActionSpec) -> bool:
        """A principal without the action's scope sees it all the same: with another scope it may preview and plan."""
        active = await self._source.active(principal.workspace_id)
        return could_match(principal_facts(principal), action_facts(spec), active.policies)


def lacks_counters(inputs: DecisionInputs, active: Active) -> bool:
    """Say whether a policy that has a say in the decision may look at counters, which are not among the inputs."""
    if not active.policies.counts or inputs.counted or active.broken or not _in_scope(inputs):
        return False
    return _slice(inputs, active.policies).counts


def evaluate(inputs: DecisionInputs, active: Active) -> Decision:
    """Return the decision about recorded inputs under any policies, the same for the same; without ``inputs`` in it.

    The scope comes first. Then: permitted by Cedar is ``allow``. Otherwise ``require_approval`` with the least demand
    under which it would be permitted: one person, one who had no part in the requester's key, two persons, and so on up
    to five. Else ``deny``, as for any error in any policy on the way, also where another policy would have decided.
    """
    return _decision(inputs, active, b"")


def _decision(inputs: DecisionInputs, active: Active, recorded: bytes) -> Decision:
    if not _in_scope(inputs):
        verdict = _Verdict("deny", f"This needs the scope {inputs.action.scope}.")
    elif active.broken:
        verdict = _Verdict("deny", active.broken, error=True)
    else:
        verdict = _verdict(inputs, active.policies)
    return Decision(
        effect=verdict.effect,
        policy_id=active.policy_id,
        policy_version=active.version,
        reason=verdict.reason,
        approvers=verdict.approvers,
        other_person=verdict.other_person,
        inputs=recorded,
        policies=tuple(statement.label for statement in verdict.by),
        error=verdict.error,
    )


def _in_scope(inputs: DecisionInputs) -> bool:
    return inputs.action.scope in inputs.principal.scopes


def _slice(inputs: DecisionInputs, policies: CompiledPolicies) -> Slice:
    who, what = inputs.principal, inputs.action
    return policies.slice(TYPES[who.kind], who.id, what.name, what.groups, what.connector)


@dataclass(frozen=True, slots=True)
class _Demand:
    """Who has agreed, or would have to."""

    approvals: int
    other_person: bool

    def seen(self, looks_at: Iterable[Path]) -> dict[str, Any]:
        """Return what a slice's policies see of it."""
        context = {"approved": self.approvals > 0, "approvals": self.approvals, "other_person": self.other_person}
        return {name: value for name, value in context.items() if (name,) in looks_at or EVERYTHING in looks_at}


@dataclass(frozen=True, slots=True)
class _Verdict:
    effect: DecisionEffect
    reason: str
    approvers: int = 1
    other_person: bool = False
    by: tuple[Statement, ...] = ()
    error: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    permitted: bool
    errors: bool
    by: tuple[Statement, ...]


def _verdict(inputs: DecisionInputs, policies: CompiledPolicies) -> _Verdict:
    who, what, chosen = inputs.principal, inputs.action, _slice(inputs, policies)
    # What no policy of the slice looks at cannot change what Cedar answers, so it is neither sent nor part of the key.
    seen = _seen(inputs.context, chosen.looks_at)
    text = encode_json(seen) if seen else ""
    key = (chosen.number, who, what, text, inputs.approvals, inputs.other_person)
    found: _Verdict | None = policies.known(key)
    if found is None:
        question = _Question(who, what, chosen, inputs.context, seen)
        found = question.verdict(_Demand(inputs.approvals, inputs.other_person))
        if len(text) <= MAX_REMEMBERED:
            policies.remember(key, found)
    return found


def _seen(context: dict[str, Any], looks_at: Iterable[Path]) -> dict[str, Any]:
    """Return the part of the context that the paths lead to, with each record that one leads through."""
    seen: dict[str, Any] = {}
    for path in looks_at:
        if path == EVERYTHING:
            return context
        value = context.get(path[0])
        if value is None:
            continue
        if len(path) == 1:
            seen[path[0]] = value
        else:
            part = seen.setdefault(path[0], {})
            if isinstance(value, dict) and path[1] in value:
                part[path[1]] = value[path[1]]
    return seen


class _Question:
    """One request, put to Cedar under one demand after the other."""

    def __init__(
        self, who: PrincipalFacts, what: ActionFacts, chosen: Slice, context: dict[str, Any], seen: dict[str, Any]
    ) -> None:
        self._request = request_of(who, what)
        self._entities = entities_of(who, what)
        self._chosen = chosen
        self._context = context
        self._seen = seen

    def verdict(self, actual: _Demand) -> _Verdict:
        first = self._ask(self._chosen, self._seen, actual)
        if first.errors:
            return _Verdict("deny", failed(first.by), by=first.by, error=True)
        if first.permitted:
            return _Verdict("allow", allowed(first.by), by=first.by)
        # What forbids whoever has agreed forbids it under every demand.
        if not self._chosen.permits or not all(statement.looks_at_agreement for statement in first.by):
            return _Verdict("deny", denied(first.by), by=first.by)
        asked = self._chosen.agreed or self._chosen
        seen = _seen(self._context, asked.looks_at)
        tried = [actual.seen(asked.looks_at)]
        for demand in _greater(actual):
            if (looks := demand.seen(asked.looks_at)) in tried:
                continue
            tried.append(looks)
            answer = self._ask(asked, seen, demand)
            if answer.errors:
                return _Verdict("deny", failed(answer.by), by=answer.by, error=True)
            if answer.permitted:
                by = first.by or answer.by
                reason = needs(by, demand.approvals, other_person=demand.other_person)
                return _Verdict("require_approval", reason, demand.approvals, demand.other_person, by)
        return _Verdict("deny", denied(first.by), by=first.by)

    def _ask(self, chosen: Slice, seen: dict[str, Any], demand: _Demand) -> _Answer:
        request = {**self._request, "context": encode_json({**seen, **demand.seen(chosen.looks_at)})}
        (result,) = is_authorized_batch([request], chosen.policies, self._entities)
        diagnostics, statements = result.diagnostics, chosen.statements
        if diagnostics.errors or result.decision is CedarDecision.NoDecision:
            return _Answer(False, True, tuple(_named_in(diagnostics.errors, statements)))
        by = tuple(statement for policy, statement in statements.items() if policy in diagnostics.reasons)
        return _Answer(result.decision is CedarDecision.Allow, False, by)


def _greater(actual: _Demand) -> Iterator[_Demand]:
    """Yield the demands that ask for more than there is, the least first."""
    for approvals in range(max(1, actual.approvals), MAX_APPROVERS + 1):
        for other_person in (False, True):
            demand = _Demand(approvals, other_person)
            if demand != actual and other_person >= actual.other_person:
                yield demand


def _named_in(errors: Iterable[str], statements: dict[str, Statement]) -> Iterator[Statement]:
    """Yield the policies that Cedar's messages name. The messages themselves may quote parameters."""
    for policy, statement in statements.items():
        if any(f"`{policy}`" in error for error in errors):
            yield statement
