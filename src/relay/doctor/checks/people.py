"""Keys and those who hold them, and who is told of what happens."""

from typing import Final

from relay.core.clock import DAY
from relay.core.principal import SCOPES
from relay.doctor.check import some
from relay.doctor.facts import Facts

FIRST_KEY: Final = "first key"
_LONG_DAYS: Final = 180
_FIRST_KEY_DAYS: Final = 7
_ADMINISTER: Final = frozenset({"keys:manage", "policies:manage", "workspace:admin"})


def approvers(facts: Facts) -> str | None:
    """Where agents act, there is somebody who can approve."""
    keys = facts.store.keys
    acting = {key.workspace for key in keys if key.kind == "agent" and "actions:execute" in key.scopes}
    deciding = {key.workspace for key in keys if key.kind == "person" and "approvals:decide" in key.scopes}
    without = sorted(acting - deciding)
    return f"nobody can approve what agents ask for in {some(without)}" if without else None


def agent_scopes(facts: Facts) -> str | None:
    """No agent administers what is there to restrain it."""
    mighty = [
        f"{key.id} ({'every scope' if key.scopes >= set(SCOPES) else ', '.join(sorted(key.scopes & _ADMINISTER))})"
        for key in facts.store.keys
        if key.kind == "agent" and key.scopes & _ADMINISTER
    ]
    return f"keys of agents with scopes of an administrator: {some(mighty)}" if mighty else None


def key_ends(facts: Facts) -> str | None:
    """Keys end within half a year."""
    long = [key.id for key in facts.store.keys if key.expires_at - facts.at > _LONG_DAYS * DAY]
    return f"keys that live for more than {_LONG_DAYS} days yet: {some(long)}" if long else None


def first_key(facts: Facts) -> str | None:
    """The first key, which may do everything, has made way for keys with a purpose."""
    for key in facts.store.keys:
        if key.name == FIRST_KEY and key.last_used_at is not None and facts.at - key.created_at > _FIRST_KEY_DAYS * DAY:
            return f"the first key ({key.id}), which holds every scope, is still in use"
    return None


def endpoints(facts: Facts) -> str | None:
    """Whoever wants to be told is told."""
    disabled = facts.store.disabled_endpoints
    return f"webhook endpoints that were given up: {some(disabled)}" if disabled else None
