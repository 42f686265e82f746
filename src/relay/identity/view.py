"""A key as people and programs may see it: plain JSON values, no text of the key and no hash."""

from typing import Any

from relay.core.clock import iso
from relay.store.api_keys import ApiKeyRecord


def key_view(record: ApiKeyRecord, now: int, *, traps_shown: bool = False) -> dict[str, Any]:
    """Return the members of a key's JSON form. ``status`` is live, quarantined, expired or revoked, as of ``now``.

    ``honey`` is None for everybody but those to whom traps are shown. Of a child token ``status`` knows its own half:
    it ends with its parent at the latest.
    """
    return {
        "id": record.id,
        "kind": record.kind,
        "workspace": record.workspace_id,
        "name": record.name,
        "scopes": list(record.scopes),
        "prefix": record.prefix,
        "last4": record.last4,
        "status": status_of(record, now),
        "made_by": list(record.made_by),
        "created_at": iso(record.created_at),
        "expires_at": iso(record.expires_at),
        "revoked_at": _iso(record.revoked_at),
        "last_used_at": _iso(record.last_used_at),
        "successor_id": record.successor_id,
        "allowed_networks": list(record.allowed_networks),
        "parent_id": record.parent_id,
        "allowed_actions": list(record.allowed_actions),
        "quarantined_at": _iso(record.quarantined_at),
        "quarantine_reason": record.quarantine_reason,
        "honey": record.honey if traps_shown else None,
    }


def status_of(record: ApiKeyRecord, now: int) -> str:
    """Return live, quarantined, expired or revoked."""
    if record.revoked_at is not None:
        return "revoked"
    if now >= record.expires_at:
        return "expired"
    return "live" if record.quarantined_at is None else "quarantined"


def _iso(moment: int | None) -> str | None:
    return None if moment is None else iso(moment)
