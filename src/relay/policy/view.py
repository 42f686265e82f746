"""Versions, problems and flips as people and programs may see them: plain JSON values."""

from typing import Any

from relay.core.action import Decision
from relay.core.clock import iso
from relay.policy.replay import Flip, Replayed, Ruling
from relay.policy.text import Problem
from relay.store.policies import VersionRow


def version_view(row: VersionRow, *, active: int) -> dict[str, Any]:
    """Return the members of a version's JSON form, its text left out. The default (0) has no time."""
    return {
        "version": row.version,
        "active": row.version == active,
        "digest": row.digest,
        "author": row.author,
        "comment": row.comment,
        "created_at": iso(row.created_at) if row.created_at else None,
    }


def problem_view(problem: Problem) -> dict[str, Any]:
    """Return the members of a problem's JSON form."""
    return {"line": problem.line, "column": problem.column, "reason": problem.reason}


def decision_view(decision: Decision) -> dict[str, Any]:
    """Return the members of a decision's JSON form."""
    return {
        "decision": decision.effect,
        "reason": decision.reason,
        "policies": list(decision.policies),
        "approvers": decision.approvers if decision.effect == "require_approval" else 0,
        "other_person": decision.other_person,
        "policy_id": decision.policy_id,
        "policy_version": decision.policy_version,
    }


def flip_view(flip: Flip) -> dict[str, Any]:
    """Return the members of a flip's JSON form."""
    row = flip.row
    return {
        "decision_id": row.id,
        "occurred_at": iso(row.occurred_at),
        "principal": row.principal_id,
        "action": row.action,
        "kind": row.kind,
        "attempt_id": row.attempt_id or None,
        "policy_id": row.policy_id,
        "policy_version": row.policy_version,
        "from": _ruling(flip.before),
        "to": _ruling(flip.after),
    }


def replayed_view(found: Replayed) -> dict[str, Any]:
    """Return the members of a replay's JSON form, the flips themselves left out."""
    return {
        "digest": found.digest,
        "since": iso(found.since),
        "until": iso(found.until),
        "replayed": found.replayed,
        "unreadable": found.unreadable,
        "not_judged": found.not_judged,
        "flips": found.flips,
        "transitions": [
            {"from": before, "to": after, "count": count}
            for (before, after), count in sorted(found.transitions.items())
        ],
        "truncated": found.truncated,
        "reached": iso(found.reached) if found.reached is not None else None,
    }


def _ruling(ruling: Ruling) -> dict[str, Any]:
    return {
        "decision": ruling.effect,
        "approvers": ruling.approvers if ruling.needs_approval else 0,
        "other_person": ruling.other_person,
        "reason": ruling.reason,
        "policies": list(ruling.policies),
    }
