"""What a stop stops, and how that is said. Pure."""

from collections.abc import Iterable
from typing import Any, Final

from relay.catalog import ActionSpec
from relay.core.clock import iso
from relay.core.principal import Principal
from relay.core.problem import Stopped
from relay.store.kill_switch import EVERYWHERE, Stop

_WIDEST_FIRST: Final = ("everything", "workspace", "connector", "action", "key")
_SUBJECTS: Final = {
    "everything": "Everything",
    "workspace": "This workspace",
    "key": "This key, or one that made it,",
    "action": "This action",
    "connector": "This connector",
}


def stop_of(stops: Iterable[Stop], principal: Principal, spec: ActionSpec) -> Stop | None:
    """Return the widest stop that holds for an action of a principal, or None."""
    found = [stop for stop in stops if _holds(stop, principal, spec)]
    return min(found, key=lambda stop: _WIDEST_FIRST.index(stop.kind), default=None)


def stops_key(stops: Iterable[Stop], principal: Principal) -> Stop | None:
    """Return the stop of the principal's own key, or of one that made it."""
    return next((stop for stop in stops if stop.kind == "key" and stop.subject in _chain(principal)), None)


def problem_of(stop: Stop) -> Stopped:
    """Return the refusal that a stop is the reason of. It names nobody, and no other workspace."""
    return Stopped(f"{_SUBJECTS[stop.kind]} is stopped: {stop.reason}", scope=stop.kind, reason=stop.reason)


def named(stop: Stop) -> str:
    """Return what a stop stops as the target of an event: its kind, and its subject if there is one."""
    return f"{stop.kind}:{stop.subject}" if stop.subject else stop.kind


def stop_view(stop: Stop) -> dict[str, Any]:
    """Return the members of a stop's JSON form. ``workspace`` is null where it holds in every one."""
    return {
        "scope": {stop.kind: stop.subject or True},
        "workspace": stop.workspace_id or None,
        "reason": stop.reason,
        "since": iso(stop.since),
        "by": stop.switched_by,
        "authority": stop.authority,
    }


def _holds(stop: Stop, principal: Principal, spec: ActionSpec) -> bool:
    if stop.workspace_id not in (EVERYWHERE, principal.workspace_id):
        return False
    if stop.kind == "key":
        return stop.subject in _chain(principal)
    if stop.kind == "action":
        return stop.subject == spec.name
    if stop.kind == "connector":
        return stop.subject == spec.connector
    return True


def _chain(principal: Principal) -> tuple[str, ...]:
    return (principal.id, principal.credential_id, *principal.made_by)
