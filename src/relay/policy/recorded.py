"""What decisions were made upon, kept for a while, so that a draft can be tried on them."""

import json
from dataclasses import dataclass
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.core.action import Decision
from relay.core.canonical import canonical_json
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.store.decisions import PURPOSE, DecisionKind, DecisionRepository, DecisionRow
from relay.store.vault import Sealed, Vault
from relay.store.writer import Tx

_SEPARATOR: Final = b"\n"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decision that waits to be stored with what it led to."""

    workspace_id: str
    row: dict[str, Any]
    sealed: Sealed

    def put(self, tx: Tx, attempt_id: str = "") -> None:
        """Store the decision as part of a unit: two inserts. ``attempt_id`` is empty where there is no attempt."""
        DecisionRepository(self.workspace_id).add(tx, DecisionRow(**self.row, attempt_id=attempt_id))
        Vault.put(tx, self.sealed)


class Recorded:
    """Prepares decisions for the record. ``retention`` is in microseconds; 0 keeps none."""

    def __init__(self, vault: Vault, retention: int) -> None:
        self._vault = vault
        self._retention = retention

    def prepare(
        self, principal: Principal, spec: ActionSpec, decision: Decision, kind: DecisionKind, at: int
    ) -> Prepared | None:
        """Return the decision, sealed; None when nothing is kept, or no policy made it (it has no inputs)."""
        if not self._retention or not decision.inputs:
            return None
        decision_id, expires_at = new_id("dec"), at + self._retention
        sealed = self._vault.seal(
            _packed(decision),
            workspace=principal.workspace_id,
            purpose=PURPOSE,
            record_id=decision_id,
            expires_at=expires_at,
        )
        row = {
            "id": decision_id,
            "occurred_at": at,
            "principal_id": principal.id,
            "action": spec.name,
            "kind": kind,
            "effect": decision.effect,
            "approvers": decision.approvers,
            "other_person": int(decision.other_person),
            "policy_id": decision.policy_id,
            "policy_version": decision.policy_version,
            "expires_at": expires_at,
        }
        return Prepared(principal.workspace_id, row, sealed)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an envelope holds: why it was decided so, and the inputs as canonical JSON."""

    reason: str
    policies: tuple[str, ...]
    inputs: bytes


def _packed(decision: Decision) -> bytes:
    # One line each: canonical JSON holds no line feed, and the inputs need not be written a second time.
    why = canonical_json({"policies": list(decision.policies), "reason": decision.reason})
    return why + _SEPARATOR + decision.inputs


def unpacked(data: bytes) -> Unpacked:
    """Return what was packed; ValueError for anything else."""
    why, separator, inputs = data.partition(_SEPARATOR)
    found = json.loads(why)
    if not separator or not isinstance(found, dict) or set(found) != {"policies", "reason"}:
        raise ValueError("this is not a recorded decision")
    return Unpacked(str(found["reason"]), tuple(map(str, found["policies"])), inputs)
