"""What a key may be: who may make it, with which scopes, for how long. Pure, and the same for every door."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from relay.core.networks import MAX_NETWORKS, allow_list, is_within, network_of
from relay.core.principal import BUNDLES, SCOPES, KeyKind, Principal, Scope, expand_scopes
from relay.core.problem import Conflict, Denied, InsufficientScope, Invalid, NotFound
from relay.store.api_keys import ApiKeyRecord
from relay.store.workspaces import is_workspace_id

DEFAULT_DAYS: Final = 90
MAX_DAYS: Final = 365
DEFAULT_OVERLAP_HOURS: Final = 24
MAX_OVERLAP_HOURS: Final = 30 * 24
MAX_NAME: Final = 100
MAX_SCOPE_NAMES: Final = 32
MAX_MAKERS: Final = 100
DEFAULT_CHILD_SECONDS: Final = 900
MIN_CHILD_SECONDS: Final = 60
MAX_CHILD_SECONDS: Final = 3600
MAX_CHILDREN: Final = 20
MAX_ACTIONS: Final = 50
MAX_ACTION_NAME: Final = 100
CHILD_SCOPES: Final[tuple[Scope, ...]] = ("actions:preview", "actions:execute", "audit:read", "chat", "docs")
"""What a child token may hold: nothing that lets it make what outlives it, or decide about what others ask."""

_ACTION: Final = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9_]*)+")
_KEY_ID: Final = re.compile(r"key_[0-9a-f]{32}")


def is_key_id(text: str) -> bool:
    """Say whether ``text`` can be the id of a key; what cannot be need not trouble the database."""
    return _KEY_ID.fullmatch(text) is not None


def checked_scopes(names: Iterable[str]) -> tuple[Scope, ...]:
    """Return the scopes that scope and bundle names stand for; 422 for an unknown one and for none at all.

    A key without scopes would open nothing, and a default would grant what nobody asked for: so they must be named.
    """
    asked = list(names)
    known = f"Scopes: {', '.join(SCOPES)}. Bundles: {', '.join(BUNDLES)}."
    if not asked:
        raise invalid("/scopes", f"A key has the scopes that it is given, and this one was given none. {known}")
    if len(asked) > MAX_SCOPE_NAMES:
        raise invalid("/scopes", f"At most {MAX_SCOPE_NAMES} names.")
    for position, name in enumerate(asked):
        if name not in SCOPES and name not in BUNDLES:
            raise invalid(f"/scopes/{position}", f"There is no such scope. {known}")
    return expand_scopes(asked)


def checked_child_scopes(names: Iterable[str]) -> tuple[Scope, ...]:
    """Return what :func:`checked_scopes` does; 403 for a scope that no child token may have."""
    scopes = checked_scopes(names)
    if beyond := [scope for scope in scopes if scope not in CHILD_SCOPES]:
        raise Denied(f"No child token may have {', '.join(beyond)}; it may have {', '.join(CHILD_SCOPES)}.")
    return scopes


def checked_child_seconds(seconds: int) -> int:
    """Return the lifetime of a child token; 422 outside 60 to 3600 seconds."""
    if not MIN_CHILD_SECONDS <= seconds <= MAX_CHILD_SECONDS:
        raise invalid("/expires_seconds", f"From {MIN_CHILD_SECONDS} to {MAX_CHILD_SECONDS} seconds.")
    return seconds


def checked_actions(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of actions without repetitions; 422 for what can be none and for more than 50."""
    if len(names) > MAX_ACTIONS:
        raise invalid("/allowed_actions", f"At most {MAX_ACTIONS} actions.")
    for position, name in enumerate(names):
        if len(name) > MAX_ACTION_NAME or _ACTION.fullmatch(name) is None:
            raise invalid(f"/allowed_actions/{position}", "This is not the name of an action, like email.send.")
    return tuple(dict.fromkeys(names))


def checked_name(name: str) -> str:
    """Return the name of a key; 422 beyond 100 characters or with any that a terminal would obey instead of show."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise invalid("/name", f"At most {MAX_NAME} printable characters.")
    return name


def checked_days(days: int) -> int:
    """Return a lifetime in days; 422 outside 1 to 365."""
    if not 1 <= days <= MAX_DAYS:
        raise invalid("/expires_days", f"From 1 to {MAX_DAYS} days.")
    return days


def checked_overlap(hours: int) -> int:
    """Return for how many hours a rotated key lives on; 422 outside 0 to 720."""
    if not 0 <= hours <= MAX_OVERLAP_HOURS:
        raise invalid("/overlap_hours", f"From 0 to {MAX_OVERLAP_HOURS} hours.")
    return hours


def require_may_make(maker: Principal, workspace_id: str, kind: KeyKind, scopes: Iterable[str]) -> None:
    """Refuse a key in another workspace (404), with scopes beyond the maker's (403), or a person's by an agent (403).

    The operator may make any key in any workspace whose id is one (422).
    """
    if not is_workspace_id(workspace_id):
        raise invalid("/workspace", "1 to 63 lower-case letters, digits and hyphens, no hyphen first.")
    if maker.auth_method == "operator":
        return
    if workspace_id != maker.workspace_id:
        raise NotFound("There is no such workspace.")
    if maker.parent_id is not None:
        raise Denied("A child token makes no keys.")
    if kind == "person" and maker.kind != "person":
        raise Denied("Only a person can make a key of kind person.")
    _require_held(maker, scopes)


def require_may_set_trap(maker: Principal, honey: bool) -> None:
    """Refuse an agent that would make a honey key (403): who may fall into a trap must not know where it is."""
    if honey and maker.kind != "person":
        raise Denied("Only a person can make a honey key.")


def require_no_child(key: ApiKeyRecord) -> None:
    """Refuse a child token that would have a child of its own (403)."""
    if key.parent_id is not None:
        raise Denied("A child token mints no other; its parent does.")


def require_scopes_of(key: ApiKeyRecord, scopes: Iterable[str]) -> None:
    """Refuse scopes for another key that a key lacks itself (403)."""
    wanted = frozenset(scopes)
    missing = tuple(sorted(wanted - frozenset(key.scopes)))
    if missing:
        raise InsufficientScope(missing, wanted)


def narrowed_scopes(key: ApiKeyRecord, scopes: Sequence[Scope], now: int) -> tuple[Scope, ...]:
    """Return the scopes that are left to a key, in the house order.

    409 for one that it does not have (any more), since a key's scopes can only shrink, and for a key that has ended.
    """
    if beyond := [scope for scope in scopes if scope not in key.scopes]:
        raise Conflict(f"This key does not have {', '.join(beyond)}; a key loses scopes and gets none.")
    if key.revoked_at is not None or now >= key.expires_at:
        raise Conflict("This key has been revoked or has expired.")
    return tuple(scopes)


def require_may_release(actor: Principal, key: ApiKeyRecord) -> None:
    """Refuse an agent, and whoever descends from the key: a key that may be stolen must not release itself (403)."""
    if actor.kind != "person":
        raise Denied("Only a person can release a key from quarantine.")
    if key.id in (actor.credential_id, *actor.made_by):
        raise Denied("The key in quarantine made yours; another person has to release it, or the operator.")


def require_may_rotate(actor: Principal, key: ApiKeyRecord, now: int) -> None:
    """Refuse to rotate a key that has ended or has a successor (409), or whose successor ``actor`` could not make."""
    require_may_end(actor, key)
    if key.parent_id is not None:
        raise Conflict("A child token is not rotated; its parent mints another.")
    if actor.auth_method != "operator":
        # Whoever rotates a key learns its successor: with scopes beyond the actor's own that would be a promotion.
        _require_held(actor, key.scopes)
    if key.successor_id is not None:
        raise Conflict("This key has been rotated before; rotate its successor.", successor_id=key.successor_id)
    if not key.lives(now):
        raise Conflict("This key has been revoked, has expired or is in quarantine; make a new one.")


def require_may_end(actor: Principal, key: ApiKeyRecord) -> None:
    """Refuse an agent that would take a person's key away: nobody would be left to stop it (403)."""
    if key.kind == "person" and actor.kind != "person":
        raise Denied("Only a person can rotate, revoke, restrict or quarantine a key of kind person.")


def checked_networks(texts: Sequence[str]) -> tuple[str, ...]:
    """Return networks in one form each, without repetitions; 422 for what is none and for more than 100."""
    if len(texts) > MAX_NETWORKS:
        raise invalid("/allowed_networks", f"At most {MAX_NETWORKS} networks.")
    found: dict[str, None] = {}
    for position, text in enumerate(texts):
        try:
            found[str(network_of(text))] = None
        except ValueError as error:
            raise invalid(f"/allowed_networks/{position}", f"This {error}.") from None
    return tuple(found)


def narrowed(own: Sequence[str], networks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the networks of a key that a key with the list ``own`` makes: its own where none are given.

    403 for any beyond them: otherwise a key that is stolen within its networks could free itself of them.
    """
    if not own:
        return networks
    if not networks:
        return tuple(own)
    outer = [network_of(text) for text in own]
    if not all(is_within(network_of(text), outer) for text in networks):
        raise Denied("This key is bound to networks; it can give no key a network beyond them.")
    return networks


def require_not_widened(own: Sequence[str], networks: tuple[str, ...]) -> None:
    """Refuse what :func:`narrowed` would, and an empty list, which means any network."""
    if narrowed(own, networks) != networks:
        raise Denied("This key is bound to networks; it can free no key of them.")


def require_not_locked_out(networks: tuple[str, ...], address: str | None) -> None:
    """Refuse networks that the caller's ``address`` is not in (409). None is the operator, who has no address."""
    allowed = allow_list(networks, ())
    if address is not None and allowed is not None and not allowed.admits(address):
        raise Conflict(
            f"Your address is {address or 'not known'}, which is in none of these networks: you would lock yourself "
            'out. Add it, or say "lock_me_out": true.'
        )


def require_may_restrict_workspace(actor: Principal) -> None:
    """Refuse an agent: it could lock out every person who might stop it (403)."""
    if actor.kind != "person":
        raise Denied("Only a person can set the networks of a workspace.")


def makers_of_new(maker: Principal) -> tuple[str, ...]:
    """Return the makers of a key that ``maker`` makes, nearest last."""
    return _bounded((*maker.made_by, maker.credential_id))


def makers_of_child(parent: ApiKeyRecord) -> tuple[str, ...]:
    """Return the makers of a child token, its parent last."""
    return _bounded((*parent.made_by, parent.id))


def makers_of_successor(key: ApiKeyRecord, actor: Principal) -> tuple[str, ...]:
    """Return the makers of the key that follows ``key``: those of ``key``, ``key`` itself, and whoever rotated it.

    For all of them may know both keys, and what one of the two asks for the other must not approve.
    """
    return _bounded((*key.made_by, key.id, *actor.made_by, actor.credential_id))


def _bounded(makers: tuple[str, ...]) -> tuple[str, ...]:
    distinct = tuple(dict.fromkeys(makers))
    if len(distinct) > MAX_MAKERS:
        raise Conflict(
            f"This key would descend from more than {MAX_MAKERS} others; let its first maker make a new one."
        )
    return distinct


def _require_held(principal: Principal, scopes: Iterable[str]) -> None:
    wanted = frozenset(scopes)
    missing = principal.missing(wanted)
    if missing:
        raise InsufficientScope(missing, wanted)


def invalid(pointer: str, message: str) -> Invalid:
    """Return the 422 for one place of a request."""
    return Invalid(message, errors=[{"pointer": pointer, "message": message}])
