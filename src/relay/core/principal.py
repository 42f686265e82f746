"""Who acts: principals, their scopes, and the bundles of scopes that people ask for by name."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from relay.core.networks import AllowList

Scope = Literal[
    "actions:preview",
    "actions:execute",
    "approvals:decide",
    "audit:read",
    "keys:manage",
    "policies:manage",
    "webhooks:manage",
    "connections:manage",
    "chat",
    "docs",
    "workspace:admin",
]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

PrincipalKind = Literal["agent", "person", "service"]
KeyKind = Literal["agent", "person"]

OPERATOR_ID: Final = "operator"
"""Who acts by the command line; also the first maker of the keys that are made there."""
CHAT_ID: Final = "chat"
"""The service that callers with the chat's own key act as; no row in the database stands for it."""

BUNDLES: Final[dict[str, tuple[Scope, ...]]] = {
    "viewer": ("actions:preview", "docs"),
    "developer": ("actions:preview", "actions:execute", "chat", "docs"),
    "approver": ("actions:preview", "approvals:decide"),
    "auditor": ("audit:read",),
    "admin": SCOPES,
}


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller, bound to one workspace.

    ``made_by`` lists the credentials that made this one, nearest last: whoever is made by a requester cannot approve
    for that requester. ``scopes`` are all that the principal may ever use; there are no implied ones.
    ``allowed_from`` are the networks that requests with the credential may come from, None for any.
    ``parent_id`` is set for a child token alone: the key that minted it for itself. ``actions`` are all that the
    credential may ever run, None for any.
    """

    id: str
    kind: PrincipalKind
    workspace_id: str
    scopes: frozenset[str]
    credential_id: str
    made_by: tuple[str, ...]
    auth_method: Literal["api_key", "dev", "operator", "chat_key"]
    allowed_from: AllowList | None = None
    parent_id: str | None = None
    actions: frozenset[str] | None = None

    @property
    def account(self) -> str:
        """Whom limits per caller count: a child token counts as its parent, so that minting multiplies nothing."""
        return self.parent_id or self.id

    def missing(self, required: frozenset[str]) -> tuple[str, ...]:
        """Return the required scopes that are not held, sorted; empty when all are."""
        return tuple(sorted(required - self.scopes))


def expand_scopes(names: list[str]) -> tuple[Scope, ...]:
    """Return the scopes that ``names`` (scopes or bundle names) stand for, in the house order.

    ValueError names every entry that is neither.
    """
    wanted: set[str] = set()
    unknown: list[str] = []
    for name in names:
        if name in BUNDLES:
            wanted.update(BUNDLES[name])
        elif name in SCOPES:
            wanted.add(name)
        else:
            unknown.append(name)
    if unknown:
        known = ", ".join([*SCOPES, *BUNDLES])
        raise ValueError(f"unknown scope {', '.join(map(repr, unknown))}; known are {known}")
    return tuple(scope for scope in SCOPES if scope in wanted)
