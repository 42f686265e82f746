"""The entities of one request: who asks, what for, and where all of it lies."""

from functools import lru_cache
from typing import Any, Final

from cedarpy import Entities

from relay.policy.inputs import ActionFacts, PrincipalFacts, encode_json

TYPES: Final = {"agent": "Relay::Agent", "person": "Relay::Person", "service": "Relay::Service"}
ACTION: Final = "Relay::Action"
CONNECTOR: Final = "Relay::Connector"
WORKSPACE: Final = "Relay::Workspace"


@lru_cache(maxsize=2048)
def entities_of(principal: PrincipalFacts, action: ActionFacts) -> Entities:
    """Return the entities that policies may follow from a request of this principal for this action."""
    workspace = [_uid(WORKSPACE, principal.workspace)]
    return Entities.from_json_str(
        encode_json(
            [
                _entity(
                    TYPES[principal.kind],
                    principal.id,
                    workspace,
                    {"id": principal.id, "scopes": list(principal.scopes), "made_by": list(principal.made_by)},
                ),
                _entity(CONNECTOR, action.connector, workspace),
                _entity(ACTION, action.name, [_uid(ACTION, group) for group in action.groups]),
            ]
        )
    )


def request_of(principal: PrincipalFacts, action: ActionFacts) -> dict[str, Any]:
    """Return a request without its context."""
    return {
        "principal": _uid(TYPES[principal.kind], principal.id),
        "action": _uid(ACTION, action.name),
        "resource": _uid(CONNECTOR, action.connector),
    }


def _uid(kind: str, entity_id: str) -> dict[str, str]:
    return {"type": kind, "id": entity_id}


def _entity(kind: str, entity_id: str, parents: list[dict[str, str]], attrs: Any = None) -> dict[str, Any]:
    return {"uid": _uid(kind, entity_id), "attrs": attrs or {}, "parents": parents}
