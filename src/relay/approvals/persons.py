"""Who may decide, and which credentials are one person. Pure: what is known of a credential is its chain of makers."""

from collections.abc import Collection, Iterable, Sequence

from relay.approvals.outlook import Agreement
from relay.core.principal import OPERATOR_ID, Principal
from relay.core.problem import NotApprover
from relay.store.approvals import ApprovalRow, DecisionRow


def lineage(credential_id: str, made_by: Iterable[str]) -> frozenset[str]:
    """Return a credential with all that it descends from, the operator excepted, who makes everybody's first key."""
    return frozenset({credential_id, *made_by}) - {OPERATOR_ID}


def is_one_person(one: Collection[str], other: Collection[str]) -> bool:
    """Say whether two lineages may be in one hand: they meet in a credential, whose holder could have made both.

    So a key, what it made, and its successors by rotation are one person, and so are two keys that a third one made.
    """
    return not frozenset(one).isdisjoint(other)


def require_may_decide(principal: Principal, request: ApprovalRow, line: Collection[str]) -> None:
    """Refuse whoever must not decide about a request (403).

    Decided is by persons; not by the requester or another key of its ``line`` by rotation, and not with a credential
    that one of those made, directly or in a chain.
    """
    if principal.kind != "person":
        raise NotApprover("Only a person decides about a request; this key is of another kind.")
    askers = frozenset({request.requester_id, *line})
    if not askers.isdisjoint((principal.id, principal.credential_id)):
        raise NotApprover("Nobody decides about a request of one's own.")
    if not askers.isdisjoint(principal.made_by):
        raise NotApprover("The key that asks for this made yours; another person has to decide.")


def is_other_person(approver: Collection[str], request: ApprovalRow) -> bool:
    """Say whether a lineage has no part in the requester's credential: none of its makers may be in the same hand."""
    return not is_one_person(approver, request.makers() - {OPERATOR_ID})


def agreement(who: Sequence[Collection[str]], request: ApprovalRow) -> Agreement:
    """Return what these lineages, one for each person who agrees, come to."""
    return Agreement(len(who), any(is_other_person(theirs, request) for theirs in who))


def agreement_of(request: ApprovalRow, decisions: Iterable[DecisionRow]) -> Agreement:
    """Return what the decisions about a request come to. Credentials that may be in one hand count once."""
    persons: list[frozenset[str]] = []
    for theirs in map(lineage_of, agreed(decisions)):
        if not any(is_one_person(theirs, counted) for counted in persons):
            persons.append(theirs)
    return agreement(persons, request)


def agreed(decisions: Iterable[DecisionRow], ended: Collection[str] = ()) -> list[DecisionRow]:
    """Return the decisions that are agreements, without those of keys that have ``ended``."""
    return [found for found in decisions if found.decision == "approve" and found.approver_id not in ended]


def lineage_of(decision: DecisionRow) -> frozenset[str]:
    """Return the lineage of whoever made a decision."""
    return lineage(decision.approver_id, decision.makers())
