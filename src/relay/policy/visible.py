"""Whether there is anything that a principal could do with an action: what it can never run, it need not see."""

from cedarpy import Decision as CedarDecision
from cedarpy import is_authorized_partial

from relay.policy.compiled import CompiledPolicies, Slice
from relay.policy.entities import ACTION, CONNECTOR, TYPES, entities_of
from relay.policy.inputs import ActionFacts, PrincipalFacts


def could_match(principal: PrincipalFacts, action: ActionFacts, policies: CompiledPolicies) -> bool:
    """Say whether some context exists under which Cedar might permit the action, with or without approval.

    Partial evaluation: all of the context is unknown. Cedar denies then only where a forbid matches, or no permit can,
    whatever the context is; all else counts as possible. So this may be True for what no parameters allow, but is never
    False for what some do.
    """
    chosen = policies.slice(TYPES[principal.kind], principal.id, action.name, action.groups, action.connector)
    if not chosen.permits:
        return False
    key = ("visible", chosen.number, principal, action)
    found: bool | None = policies.known(key)
    if found is None:
        found = _could_match(principal, action, chosen)
        policies.remember(key, found)
    return found


def _could_match(principal: PrincipalFacts, action: ActionFacts, chosen: Slice) -> bool:
    request = {
        "principal": _written(TYPES[principal.kind], principal.id),
        "action": _written(ACTION, action.name),
        "resource": _written(CONNECTOR, action.connector),
    }
    result = is_authorized_partial(request, chosen.policies, entities_of(principal, action))
    return result.decision is not CedarDecision.Deny


def _written(kind: str, entity_id: str) -> str:
    escaped = entity_id.replace("\\", "\\\\").replace('"', '\\"')
    return f'{kind}::"{escaped}"'
