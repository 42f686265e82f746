"""Reasons of decisions: sentences that name policies, and neither parameters nor anybody's data."""

from collections.abc import Sequence
from typing import Final

from relay.policy.compiled import Statement

_NAMED: Final = 3


def allowed(by: Sequence[Statement]) -> str:
    """Say which policies allowed it."""
    return f"Allowed by {_names(by)}."


def denied(by: Sequence[Statement]) -> str:
    """Say which policies forbade it; none when there is only nothing that allows it."""
    return f"Forbidden by {_names(by)}." if by else "No policy allows this."


def failed(by: Sequence[Statement]) -> str:
    """Say which policies could not be evaluated, which is a denial."""
    return f"Denied, because {_names(by) if by else 'a policy'} could not be evaluated."


def needs(by: Sequence[Statement], approvers: int, *, other_person: bool) -> str:
    """Say how many persons have to agree, and which policies want it."""
    persons = "a person" if approvers == 1 else f"{approvers} persons"
    if not other_person:
        return f"Needs the approval of {persons}: {_names(by)}."
    who = "who" if approvers == 1 else "one of whom"
    return f"Needs the approval of {persons} {who} had no part in making the requester's key: {_names(by)}."


def _names(by: Sequence[Statement]) -> str:
    names = [statement.called for statement in by]
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
